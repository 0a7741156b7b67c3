"""What a checkpoint costs the steps that it is written beside: mpiexec -n 2 python -m bench checkpoints."""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import nets
from bench import options as shared
from bench.rows import counting
from mpilayer import Batch, MomentumSGD, make_schedule
from mpilayer.storage.checkpoints import Checkpoints
from mpilayer.training.startup import warm

LINE = "{:12} {:>6} {:>6} {:>9} {:>9} {:>9} {:>12} {:>12} {:>12}"
HEAD = LINE.format("net", "batch", "every", "MB a rank", "step ms", "copy ms", "written ms", "beside ms", "growth")
DEFAULT = ["alexnet-mini", "resnet50", "alexnet"]


class Steps:
    """Training steps on random samples, the same in every step, on all ranks."""

    def __init__(self, ranks, net, batch):
        self.ranks, self.net, self.t = ranks, net, 0
        self.schedule = make_schedule("layerwise", net, ranks, MomentumSGD(net, 1e-4))
        self.batch = Batch(*net.example(batch, np.random.default_rng(ranks.rank)), batch * ranks.size)

    def run(self, count, checkpoints):
        """Seconds of so many steps, after each of which a Checkpoints is looked at."""
        self.ranks.meet()
        start = time.perf_counter()
        for _ in range(count):
            self.schedule.step(self.t, self.batch)
            checkpoints.poll()
            self.t += 1
        return time.perf_counter() - start


def _round(steps, checkpoints, every):
    """Seconds of the steps alone, of a copy, of the steps while it is written, and until it is."""
    alone = steps.run(every, checkpoints)
    steps.schedule.rest()
    steps.ranks.meet()
    start = time.perf_counter()
    checkpoints.save(steps.schedule.state())
    copy = time.perf_counter() - start
    beside = steps.run(every, checkpoints)
    checkpoints.finish()
    return alone, copy, beside


def _written(checkpoints, state):
    start = time.perf_counter()
    checkpoints.save(state)
    checkpoints.finish()
    return time.perf_counter() - start


def measure(ranks, name, options, folder, say, count):
    """A row: medians over the rounds, of the slowest rank."""
    ranks.where = name
    steps = Steps(ranks, nets.build(name), options.batch)
    warm(ranks, steps.net, say)
    checkpoints, readings = Checkpoints(ranks, folder), []
    for _ in range(options.rounds + 1):
        readings.append(_round(steps, checkpoints, options.every))
        count()
    steps.schedule.rest()
    written = [_written(checkpoints, steps.schedule.state()) for _ in range(3)]
    medians = [statistics.median(column) for column in zip(*readings[1:], strict=True)]
    alone, copy, beside, written = np.max(ranks.gather([*medians, statistics.median(written)]), axis=0).tolist()
    size = sum(array.nbytes for array in steps.schedule.state().equal.values()) / ranks.size
    steps.schedule.drain()
    steps.schedule.channel.close()
    checkpoints.close()
    return {"net": name, "batch": options.batch, "every": options.every, "bytes_per_rank": size,
            "step_seconds": alone / options.every, "copy_seconds": copy, "written_seconds": written,
            "beside_seconds": beside - alone, "growth": beside / alone - 1, "growths": [
                reading[2] / reading[0] - 1 for reading in readings[1:]]}


def line(row):
    """A row of the table."""
    return LINE.format(row["net"], row["batch"], row["every"], f"{1e-6 * row['bytes_per_rank']:.1f}",
                       *(f"{1e3 * row[name]:.1f}" for name in ("step_seconds", "copy_seconds", "written_seconds",
                                                               "beside_seconds")), f"{row['growth']:.2%}")


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench checkpoints", description=__doc__)
    p.add_argument("--nets", type=shared.some(nets.NETS), default=DEFAULT, metavar="NAME,...",
                   help=f"nets to measure (default: {','.join(DEFAULT)})")
    p.add_argument("--batch", type=shared.count, default=16, help="samples on each rank (default: 16)")
    p.add_argument("--every", type=shared.count, default=20, help="steps from one checkpoint to the next (default: 20)")
    p.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    shared.add(p, {}, rounds=5)
    return p


def main(argv):
    """Measure, print, and save."""
    with shared.job(parser(), argv) as (ranks, options):
        ranks.agree(lambda: shared.begin(options, ranks.rank))
        folder = ranks.bcast(Path(tempfile.mkdtemp(dir=options.folder)) if ranks.rank == 0 else None)
        with counting(ranks, len(options.nets) * (options.rounds + 1)) as (say, count):
            rows = [measure(ranks, name, options, folder, say, count) for name in options.nets]
            say(HEAD, style="bold")
            for row in rows:
                say(line(row))
        ranks.agree(lambda: shared.save(options, rows) if ranks.rank == 0 else None)
        if ranks.rank == 0:
            shutil.rmtree(folder)
