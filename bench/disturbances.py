"""Disturb runs of mpilayer.launch at random moments: each must end by itself, with the bits of an undisturbed run.

    python -m bench chaos --runs 50 --seed 1
"""

import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench import options as shared
from bench.rows import console
from mpilayer.base.errors import UserError
from mpilayer.storage.checkpoint_files import numbers, place, rank_file

SCHEDULES = ("oneshot", "layerwise", "planned", "split", "delayed --delay 1", "delayed --delay 2 --wire bfloat16",
             "delayed --wire bfloat16 --error-feedback", "local-sgd --period 4", "diloco --period 3 --delay 2")
STEPS, EVERY = 30, 3  # of a run, and between its checkpoints
FIXED = ("--steps", str(STEPS), "--batch", "48", "--bucket", "4k", "--chunk", "32k", "--progress", "poll", "--quiet")
TIMEOUT = 4  # seconds after which a rank that hangs is looked for
LIMIT = 120  # seconds that a run may take
LINE = "{:20} {:>5} {:>6} {:>9} {:>14}  {}"
HEAD = LINE.format("disturbance", "runs", "as is", "restarts", "to the end, s", "what went wrong")
FAILING = """
import os, sys, pathlib
from mpilayer import train
from mpilayer.training.trainer import Trainer
marker, rank, step = pathlib.Path({marker!r}), {rank}, Trainer.step
def failing(self, t, *rest):
    if t >= {at} and self.ranks.rank == rank and not marker.exists():
        marker.touch()
        raise ZeroDivisionError("for once")
    return step(self, t, *rest)
Trainer.step = failing
train.main(sys.argv[1:])
"""


class Run:
    """One run under mpilayer.launch, in a folder of its own."""

    def __init__(self, folder, ranks, words, dice):
        self.folder, self.ranks, self.words, self.dice = folder, ranks, words, dice
        self.saved, self.log, self.names, self.process = folder / "saved", folder / "log", [], None

    def begin(self, program=()):
        """Start it."""
        words = [*self.words.split(), *FIXED, "--timeout", str(TIMEOUT), "--checkpoint", self.saved,
                 "--checkpoint-every", str(EVERY), "--out", self.folder / "out"]
        line = [sys.executable, "-m", "mpilayer.launch", "-n", str(self.ranks), "--", *program,
                *(["--schedule", *words, "--resume"])]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(list(map(str, line)), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for(self, number):
        """Until a checkpoint is there, or the run has ended."""
        while max(numbers(self.saved), default=0) < number and self.process.poll() is None:
            time.sleep(0.005)

    def processes(self):
        """{rank: its psutil.Process}."""
        import psutil

        found = {}
        with contextlib.suppress(psutil.Error):
            for each in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    told = each.environ()
                    rank = told.get("PMI_RANK", told.get("OMPI_COMM_WORLD_RANK"))
                    if rank is not None and "--checkpoint" in each.cmdline():
                        found[int(rank)] = each
        return found

    def signal(self, number, named="rank {rank}, process {pid}, has died"):
        """Send it to one rank; what must then be said of it in the log."""
        import psutil

        found = self.processes()
        if found:
            rank = self.dice.choice(sorted(found))
            with contextlib.suppress(psutil.Error):
                found[rank].send_signal(number)
                self.names.append(named.format(pid=found[rank].pid, rank=rank))

    def sometime(self):
        """At a random moment after a random checkpoint."""
        self.wait_for(self.dice.randint(1, STEPS // EVERY - 2))
        time.sleep(0.3 * self.dice.random())


def signalled(number, *named):
    """A disturbance: that signal to a rank, and what must then be said of it."""
    def disturb(run):
        run.begin()
        run.sometime()
        run.signal(number, *named)

    return disturb


killed = signalled(signal.SIGKILL)


def killed_twice(run):
    """Another rank of the next start, too."""
    killed(run)
    while "| start 2" not in run.log.read_text() and run.process.poll() is None:
        time.sleep(0.01)
    run.wait_for(max(numbers(run.saved), default=0) + 1)
    run.signal(signal.SIGKILL)


def killed_at_start(run):
    """SIGKILL of a rank before it has done anything."""
    run.begin()
    while not run.processes() and run.process.poll() is None:
        time.sleep(0.005)
    time.sleep(1.5 * run.dice.random())
    run.signal(signal.SIGKILL)


def slow(run):
    """A rank that stands still now and then."""
    run.begin()
    run.sometime()
    rank = run.dice.randrange(run.ranks)
    for _ in range(5):
        process = run.processes().get(rank)
        with contextlib.suppress(Exception):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.2 * run.dice.random())
            process.send_signal(signal.SIGCONT)


def damaged(run):
    """The newest checkpoint is cut short, and a rank killed."""
    killed(run)
    newest = max(numbers(run.saved), default=None)
    with contextlib.suppress(OSError):
        file = rank_file(place(run.saved, newest), run.dice.randrange(run.ranks))
        os.truncate(file, run.dice.randrange(file.stat().st_size))


def raised(run):
    """An exception on a rank."""
    script, rank = run.folder / "failing.py", run.dice.randrange(run.ranks)
    script.write_text(FAILING.format(marker=str(run.folder / "raised"), rank=rank, at=run.dice.randrange(1, STEPS)))
    run.names.append(f"rank {rank} | ")
    run.begin([script])


KINDS = {
    "killed": killed, "killed twice": killed_twice, "killed at start": killed_at_start,
    "stopped": signalled(signal.SIGSTOP, "rank {rank}"), "slow": slow,
    "asked": signalled(signal.SIGTERM, "exit status"), "damaged": damaged, "raised": raised,
}


class Found(NamedTuple):
    """What came of a run: its disturbance, restarts, seconds from it to the end of the run, and what went wrong."""

    kind: str
    ranks: int
    words: str
    restarts: int
    seconds: float
    faults: list


def hash_of(folder):
    """SHA-256 of the last weights."""
    return json.loads((folder / "out" / "run.json").read_text())["final"]["weights_sha256"]


def disturbed(kind, folder, ranks, words, dice, expected):
    """Found of one run."""
    run = Run(folder, ranks, words, dice)
    KINDS[kind](run)
    begun, faults = time.monotonic(), []
    try:
        status = run.process.wait(LIMIT)
        faults += [f"exit status {status}"] if status else []
    except subprocess.TimeoutExpired:
        faults.append(f"not at its end after {LIMIT} s; the last line: {run.log.read_text().strip().splitlines()[-1:]}")
        run.process.kill()
    said = run.log.read_text()
    if not faults and hash_of(folder) != expected:
        faults.append("other bits")
    restarts = said.count("| start ")
    faults += [f"nothing of {name!r} in: {' / '.join(re.findall('^mpilayer.launch: (.*)', said, re.MULTILINE))}"
               for name in run.names if restarts and name not in said]
    return Found(kind, ranks, words, restarts, time.monotonic() - begun, faults)


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench chaos", description=__doc__)
    p.add_argument("--runs", type=shared.count, default=20, help="disturbed runs (default: 20)")
    p.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    p.add_argument("--kinds", type=shared.listed(str), default=list(KINDS), metavar="A,B,...",
                   help=f"of {', '.join(KINDS)} (default: all)")
    shared.add_json(p)
    return p


def runs_of(options, folder):
    """Yield the Found of each run."""
    dice, expected = random.Random(options.seed), {}
    for number in range(options.runs):
        kind = options.kinds[number % len(options.kinds)]
        ranks, words = dice.randint(2, 4), dice.choice(SCHEDULES)
        if (ranks, words) not in expected:
            calm = Path(folder, f"calm-{number}")
            calm.mkdir()
            run = Run(calm, ranks, words, dice)
            run.begin()
            if run.process.wait(LIMIT):
                raise UserError(f"an undisturbed run failed: {run.log.read_text()}")
            expected[ranks, words] = hash_of(calm)
        place_of = Path(folder, f"run-{number}")
        place_of.mkdir()
        yield disturbed(kind, place_of, ranks, words, dice, expected[ranks, words])


def rows_of(found):
    """A row for each kind of disturbance."""
    for kind in dict.fromkeys(each.kind for each in found):
        mine = [each for each in found if each.kind == kind]
        yield {"kind": kind, "runs": len(mine), "as_undisturbed": sum(not each.faults for each in mine),
               "restarts": statistics.mean(each.restarts for each in mine),
               "seconds": statistics.median(each.seconds for each in mine),
               "faults": [f"{each.words} on {each.ranks}: {fault}" for each in mine for fault in each.faults]}


def main(argv):
    """Disturb, print, and save; the exit status is 1 if anything went wrong."""
    options = parser().parse_args(argv)
    for kind in options.kinds:
        if kind not in KINDS:
            raise UserError(f"--kinds {kind} | expected {', '.join(KINDS)}")
    shared.check_files(options)
    say, found = console(width=160).print, []
    with tempfile.TemporaryDirectory() as folder:
        for each in runs_of(options, folder):
            found.append(each)
            say(f"{len(found)}/{options.runs}  {each.kind}, {each.words} on {each.ranks} ranks: {each.restarts}"
                f" restarts, {each.seconds:.1f} s {' | '.join(each.faults)}")
    rows = list(rows_of(found))
    say(HEAD, style="bold")
    for row in rows:
        say(LINE.format(row["kind"], row["runs"], row["as_undisturbed"], f"{row['restarts']:.1f}",
                        f"{row['seconds']:.1f}", " | ".join(row["faults"])))
    shared.save(options, rows)
    return int(any(each.faults for each in found))
