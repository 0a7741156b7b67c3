"""Disturb runs at random moments: each must end by itself, with the numbers of an undisturbed run.

    python -m bench chaos --runs 50 --seed 1
"""

import contextlib
import json
import random
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench import options as shared
from bench.disturbances import KINDS, LIMIT, ROUNDED, SAME, Run, missing
from bench.rows import console
from mpilayer.base.errors import UserError

SCHEDULES = ("oneshot", "layerwise", "planned", "split", "delayed --delay 1", "delayed --delay 2 --wire bfloat16",
             "delayed --wire bfloat16 --error-feedback", "local-sgd --period 4", "diloco --period 3 --delay 2",
             "gossip", "ps --staleness 0", "layerwise --wire topk")
EXACT = SCHEDULES[:5]  # those that come to the same numbers with fewer ranks, for what travels is not rounded
ROUNDING = 1e-3  # of the loss on the test part, where other ranks have added up the same
LINE = "{:20} {:>5} {:>6} {:>9} {:>12} {:>14}  {}"
HEAD = LINE.format("disturbance", "runs", "as is", "restarts", "back in, s", "to the end, s", "what went wrong")


class Found(NamedTuple):
    """What came of a run: its disturbance, restarts, seconds from it until the others were back at work (None: not
    known) and to the end of the run, and what went wrong.
    """

    kind: str
    ranks: int
    words: str
    restarts: int
    back: float | None
    seconds: float
    faults: list


def final_of(folder):
    """What run.json says of the end."""
    return json.loads((folder / "out" / "run.json").read_text())["final"]


def differs(kind, final, calm):
    """Whether a run came to something else than the undisturbed one."""
    if KINDS[kind].result == SAME:
        return final["weights_sha256"] != calm["weights_sha256"]
    return abs(final["test_loss"] - calm["test_loss"]) > ROUNDING or final["steps"] != calm["steps"]


def _last(run):
    """The last lines of its log."""
    return " / ".join(run.log.read_text().strip().splitlines()[-3:])


def disturbed(kind, folder, ranks, words, dice, expected):
    """Found of one run."""
    run = Run(folder, ranks, words, dice)
    KINDS[kind].disturb(run)
    begun, faults = time.monotonic(), []
    try:
        status = run.process.wait(LIMIT)
        faults += [f"exit status {status}: {_last(run)}"] if status else []
    except subprocess.TimeoutExpired:
        faults.append(f"not at its end after {LIMIT} s: {_last(run)}")
        run.process.kill()
    said = run.log.read_text()
    if not faults and differs(kind, final_of(folder), expected):
        faults.append("other numbers")
    restarts = said.count("| start ") + len(re.findall("goe?s? on from the snapshot", said))
    faults += [f"nothing of {name!r} in: {' / '.join(re.findall('^mpilayer[.launch]*: (.*)', said, re.MULTILINE))}"
               for name in [*(run.names if restarts else ()), *run.said] if name not in said]
    return Found(kind, ranks, words, restarts, run.back, time.monotonic() - begun, faults)


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench chaos", description=__doc__)
    p.add_argument("--runs", type=shared.count, default=20, help="disturbed runs (default: 20)")
    p.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    p.add_argument("--kinds", type=shared.listed(str), default=[], metavar="A,B,...",
                   help=f"of {', '.join(KINDS)} (default: all that this MPI bears)")
    shared.add_json(p)
    return p


def _able(kind):
    """The schedules that a disturbance is for."""
    return EXACT if KINDS[kind].result == ROUNDED else SCHEDULES


def runs_of(options, folder):
    """Yield the Found of each run."""
    dice, expected = random.Random(options.seed), {}
    for number in range(options.runs):
        kind = options.kinds[number % len(options.kinds)]
        shrinks = KINDS[kind].shrinks
        ranks, words = dice.randint(3 if shrinks else 2, 4), dice.choice(_able(kind))
        ranks = 2 if kind == "link down" else ranks  # one on each host
        if (ranks, words) not in expected:
            calm = Path(folder, f"calm-{number}")
            calm.mkdir()
            run = Run(calm, ranks, words, dice)
            run.begin()
            if run.process.wait(LIMIT):
                raise UserError(f"an undisturbed run failed: {run.log.read_text()}")
            expected[ranks, words] = final_of(calm)
        place_of = Path(folder, f"run-{number}")
        place_of.mkdir()
        yield disturbed(kind, place_of, ranks, words, dice, expected[ranks, words])


def rows_of(found):
    """A row for each kind of disturbance."""
    for kind in dict.fromkeys(each.kind for each in found):
        mine = [each for each in found if each.kind == kind]
        backs = [each.back for each in mine if each.back is not None]
        yield {"kind": kind, "runs": len(mine), "as_undisturbed": sum(not each.faults for each in mine),
               "restarts": statistics.mean(each.restarts for each in mine),
               "back_seconds": statistics.median(backs) if backs else None,
               "seconds": statistics.median(each.seconds for each in mine),
               "faults": [f"{each.words} on {each.ranks}: {fault}" for each in mine for fault in each.faults]}


def main(argv):
    """Disturb, print, and save; the exit status is 1 if anything went wrong."""
    options = parser().parse_args(argv)
    options.kinds = options.kinds or [kind for kind in KINDS if not missing(kind)]
    for kind in options.kinds:
        if kind not in KINDS:
            raise UserError(f"--kinds {kind} | expected {', '.join(KINDS)}")
        if why := missing(kind):
            raise UserError(f"--kinds {kind} | {why}")
    shared.check_files(options)
    say, found = console(width=160).print, []
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):  # then of those so far
        for each in runs_of(options, folder):
            found.append(each)
            say(f"{len(found)}/{options.runs}  {each.kind}, {each.words} on {each.ranks} ranks: {each.restarts}"
                f" restarts, {each.seconds:.1f} s {' | '.join(each.faults)}")
    rows = list(rows_of(found))
    say(HEAD, style="bold")
    for row in rows:
        back = "-" if row["back_seconds"] is None else f"{row['back_seconds']:.2f}"
        say(LINE.format(row["kind"], row["runs"], row["as_undisturbed"], f"{row['restarts']:.1f}", back,
                        f"{row['seconds']:.1f}", " | ".join(row["faults"])))
    shared.save(options, rows)
    return int(any(each.faults for each in found))
