"""Part `overlap`: two ranks on the GPU, schedules in turn, and the timelines of training with them."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import nets
from bench.cluster import launcher
from bench.gpu.record import LONGEST
from mpilayer.base.errors import UserError

RANKS = 2
NETS = ("resnet50", "alexnet")  # of the four: one for which computing is large, and one whose gradient is
SCHEDULES = ("oneshot", "layerwise", "delayed:1")
STEPS, ROUNDS, TRAINED = 5, 2, 12  # of a turn, turns, steps of a timeline
KEPT = ("iteration_seconds", "compute_seconds", "communication_seconds", "exposed_seconds", "bound_seconds",
        "bound_share", "speedup", "efficiency", "mpi_seconds")


class Unit(NamedTuple):
    """A net in a precision: all schedules in turn, or a timeline of one."""

    net: str
    precision: str
    schedule: str | None = None


def units(options):
    """{name: unit}, what matters most first; of the four nets two, else those asked for."""
    chosen = [net for net in options.nets if net in NETS] or options.nets
    turns = [Unit(net, precision) for precision in options.precisions[::-1] for net in chosen]
    lines = [Unit(chosen[0], options.precisions[-1], schedule) for schedule in SCHEDULES]
    ordered = turns[:len(chosen)] + lines + turns[len(chosen):]
    return {" ".join(filter(None, (*unit[:2], unit.schedule or "all schedules"))): unit for unit in ordered}


def _job(options, *words):
    """Run a command of Python on all ranks. Raises UserError with the end of what it said."""
    seconds = max(LONGEST, (options.until - time.time()) / 2)  # one that hangs leaves some time to the others
    name = " ".join(map(str, words))
    command = [launcher(), "-n", str(RANKS), sys.executable, "-m", *map(str, words)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        raise UserError(f"{name} took more than {seconds:.0f} s: {(late.stdout or b'')[-500:]!r}") from None
    if done.returncode:
        raise UserError(f"{name} ended with {done.returncode}: {done.stdout[-1500:]}")


def _turns(unit, options):
    """A row for each schedule."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        _job(options, "bench", "schedules", "--device", "gpu", "--net", unit.net, "--precision", unit.precision,
             "--batch", options.batch, "--schedules", ",".join(SCHEDULES), "--steps", min(STEPS, options.rounds),
             "--rounds", min(ROUNDS, options.rounds), "--json", file)
        (figures,) = json.loads(file.read_text())
    return [{"net": unit.net, "precision": unit.precision, "schedule": row["schedule"], "batch": figures["batch"],
             **{name: row.get(name) for name in KEPT}} for row in figures["rows"]]


def _trained(unit, options):
    """A row, and the folder of a training that has run.json and timeline.json."""
    folder = options.out / f"timeline-{unit.net}-{unit.precision}-{unit.schedule.partition(':')[0]}"
    data = "text" if len(nets.NETS[unit.net].shape) == 1 else "synthetic"
    begin = time.time()
    _job(options, "mpilayer.train", "--device", "gpu", "--net", unit.net, "--precision", unit.precision, "--data", data,
         "--batch", RANKS * options.batch, "--steps", TRAINED, "--lr", 1e-4, "--schedule",
         unit.schedule, "--quiet", "--out", folder)
    run = json.loads((folder / "run.json").read_text())
    epoch = run["epochs"][-1]
    return [{"net": unit.net, "precision": unit.precision, "schedule": unit.schedule, "timeline": str(folder),
             "exposed_share": epoch["exposed_seconds"] / epoch["seconds"], "job_seconds": time.time() - begin}]


def measure(todo, options, found):
    """Yield (name, rows or exception)."""
    for name, unit in todo.items():
        try:
            yield name, (_trained if unit.schedule else _turns)(unit, options)
        except (UserError, OSError, ValueError, KeyError) as error:
            yield name, error
