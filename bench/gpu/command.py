"""The command: each part in a process of its own, so that nothing that befalls one keeps the others from running."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench import options as shared
from bench.gpu import record, table
from bench.gpu.record import PARTS
from mpilayer.base.errors import UserError
from mpilayer.gpu.device import PRECISIONS

NETS = ("resnet50", "transformer", "alexnet", "googlenet")
BUDGET = 470
GRACE = 15  # seconds that a part may be late
AGAIN, TRIES = 75, 8  # exit status of a part whose GPU has to be opened anew, and how often that is done at most


def parser():
    """All options."""
    import nets

    p = argparse.ArgumentParser(prog="python -m bench gpu", description=(
        "Compile, check and time everything on one NVIDIA GPU, next to PyTorch where that is installed, and print a"
        " table. Figures go to a folder as they come; the same command goes on where it was stopped."))
    p.add_argument("--parts", type=shared.some(PARTS), default=list(PARTS), metavar="A,B,...",
                   help=f"of {', '.join(PARTS)} (default: all; build needs no GPU)")
    p.add_argument("--out", type=Path, default=Path("gpu-results"), metavar="DIR",
                   help="folder of the figures (default: gpu-results)")
    p.add_argument("--budget", type=shared.count, default=BUDGET, metavar="SECONDS",
                   help=f"stop after this time, and say what is missing (default: {BUDGET})")
    p.add_argument("--precisions", type=shared.some(PRECISIONS), default=list(PRECISIONS), metavar="A,B,...",
                   help=f"of {', '.join(PRECISIONS)} (default: all)")
    p.add_argument("--nets", type=shared.some(nets.NETS), default=list(NETS), metavar="A,B,...",
                   help=f"layers, steps and overlap of these (default: {','.join(NETS)})")
    p.add_argument("--room", default="", metavar="PART", help="build, check: only rooms of kernels named so in part")
    p.add_argument("--layer", default="", metavar="PART", help="layers: only those named so in part")
    p.add_argument("--op", default="", metavar="PART", help="memory: only operations named so in part")
    p.add_argument("--batch", type=shared.count, default=64,
                   help="images; a quarter as many texts of 1024 tokens (default: 64)")
    p.add_argument("--rounds", type=shared.count, default=9, help="readings of each time, at least (default: 9)")
    p.add_argument("--table", action="store_true", help="measure nothing, print the table of what was measured")
    return p


def ends(parts, start, budget):
    """{part: when it must have ended}: its share of the time, and what those before have left of theirs."""
    total, so_far, found = sum(PARTS[part][1] for part in parts), 0, {}
    for part in parts:
        so_far += PARTS[part][1]
        found[part] = start + budget * so_far / total
    return found


def _stop(process):
    """End a part and all that it has started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
            if sign == signal.SIGTERM:
                time.sleep(0.1)


def _attempt(part, until, run, words):
    """Run a part once; its exit status, or None if it had to be stopped."""
    command = [sys.executable, "-m", "bench.gpu.part", part, str(until), run, *words]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(max(1.0, until + GRACE - time.time()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        _stop(process)


def run_part(folder, part, until, run, words):
    """In words what kept a part from ending as it should, or None."""
    for _ in range(TRIES):
        status = _attempt(part, until, run, words)
        if status != AGAIN:
            break
    if status is None:
        return f"did not end {GRACE} s after its time, and was stopped"
    if status == AGAIN:
        return f"broke the GPU or hung {TRIES} times"
    return (record.read(folder, part)["error"] or f"ended with exit status {status}") if status else None


def _interrupted(number, _):
    raise KeyboardInterrupt(signal.Signals(number).name)


def measure(options, words):
    """Run all parts; {part: what happened to it} of those that failed."""
    start, broken = time.time(), {}
    for part, until in ends(options.parts, start, options.budget).items():
        print(f"== {part}", flush=True)
        if time.time() < until and (what := run_part(options.out, part, until, f"{start:.0f}", words)):
            broken[part] = what
    return broken


def main(argv):
    """Measure what is missing, print the table; exit status 1 if something failed."""
    options = parser().parse_args(argv)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {options.out} ({error.strerror}) | try: another --out") from None
    signal.signal(signal.SIGTERM, _interrupted)
    broken = {}
    try:
        broken = {} if options.table else measure(options, argv)
    except KeyboardInterrupt as stopped:
        broken = {"all": f"stopped by {stopped.args[0] if stopped.args else 'the keyboard'}"}
    finally:
        failed = table.show(options, broken)
    return 1 if failed else 0
