"""What it costs to compare the replicas, next to a training step: mpiexec -n 2 python -m bench replicas."""

import statistics
import time

import numpy as np

import nets
from bench import options as shared
from bench.rows import counting
from bench.step import Step
from mpilayer.mpi.agreement import extremes
from mpilayer.training.replicas import digest_of_all, layer_digests
from mpilayer.training.startup import warm

LINE = "{:18} {:>7} {:>11} {:>10} {:>10} {:>12} {:>14}"
HEAD = LINE.format("net", "batch", "parameters", "step ms", "check ms", "every step", "every 20 steps")
DEFAULT = ["alexnet-mini", "alexnet", "resnet50"]
STEPS = 20  # fewer than the default's epochs have


def _check(ranks, net):
    """What ReplicaCheck does at a time: digests, and a sum that nobody waits for in training; here it is waited for."""
    least = extremes(digest_of_all(layer_digests(net)))
    ranks.wait(ranks.comm.Iallreduce(ranks.MPI.IN_PLACE, least, op=ranks.MPI.MIN))


def _timed(ranks, function):
    ranks.meet()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(ranks, name, options, say, count):
    """A row: steps and checks in turn, medians, of the slowest rank."""
    ranks.where = name
    step = Step(nets.build(name), options.batch)
    warm(ranks, step.net, say)
    functions = step, lambda: _check(ranks, step.net)
    readings = []
    for _ in range(options.rounds + 1):
        readings.append([_timed(ranks, function) for function in functions])
        count()
    medians = [statistics.median(column) for column in zip(*readings[1:], strict=True)]
    seconds, check = np.max(ranks.gather(medians), axis=0).tolist()
    return {"net": name, "batch": options.batch, "parameters": step.net.size, "step_seconds": seconds,
            "check_seconds": check}


def line(row):
    """A row of the table."""
    share = row["check_seconds"] / row["step_seconds"]
    return LINE.format(row["net"], row["batch"], f"{row['parameters']:,}", f"{1e3 * row['step_seconds']:.2f}",
                       f"{1e3 * row['check_seconds']:.3f}", f"{share:.2%}", f"{share / STEPS:.3%}")


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench replicas", description=__doc__)
    p.add_argument("--nets", type=shared.some(nets.NETS), default=DEFAULT, metavar="NAME,...",
                   help=f"nets to measure (default: {','.join(DEFAULT)})")
    p.add_argument("--batch", type=shared.count, default=16, help="samples on each rank (default: 16)")
    shared.add(p, {}, rounds=10)
    return p


def main(argv):
    """Measure, print, and save."""
    with shared.job(parser(), argv) as (ranks, options):
        ranks.agree(lambda: shared.begin(options, ranks.rank))
        with counting(ranks, len(options.nets) * (options.rounds + 1)) as (say, count):
            rows = [measure(ranks, name, options, say, count) for name in options.nets]
            say(HEAD, style="bold")
            for row in rows:
                say(line(row))
        ranks.agree(lambda: shared.save(options, rows) if ranks.rank == 0 else None)
