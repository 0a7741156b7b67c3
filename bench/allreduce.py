"""All-reduce by message size: time and bandwidth of each way to make it, as OSU's and Intel's benchmarks give them."""

import statistics
import time

import numpy as np

import kernels
from bench import options as shared
from bench.rows import counting
from mpilayer.mpi import levels
from mpilayer.mpi.collectives import Calls, Native, Ordered
from mpilayer.mpi.engine import Engine
from mpilayer.mpi.link_model import LinkModel
from mpilayer.report import plots

LEAST = 2e-3  # seconds of a reading: short sums are made several times
SIZES = [4**power for power in range(1, 14)]  # bytes of float32, up to 64 MiB
LINE = "{:>10}  {:24} {:>11} {:>11} {:>11}  {:>9} {:>9}  {:>8}"
HEAD = LINE.format("bytes", "", "avg us", "min us", "max us", "alg GB/s", "bus GB/s", "blocking")


class Ways:
    """{name: a function that sums a buffer of `size` bytes of float32 once}, for each wire type."""

    def __init__(self, ranks, size):
        self.ranks, self.calls = ranks, Calls(ranks)
        self.native, self.own = Native(self.calls), {"ordered": Ordered(self.calls)}
        if not levels.missing(ranks):
            self.own["levels"] = levels.Levels(self.calls)
        self.functions = {}
        for wire, kind in (("float32", np.float32), ("bfloat16", np.uint16)):
            buffer = kernels.pages(max(1, size // 4), kind)
            self._of(wire, buffer)

    def _of(self, wire, buffer):
        comm = self.calls.comm(0)
        arguments, op = self.native.arguments(buffer)
        self.functions[f"blocking {wire}"] = lambda: comm.Allreduce(*arguments, op=op)
        self.functions[f"non-blocking {wire}"] = lambda: self.ranks.wait(comm.Iallreduce(*arguments, op=op))
        if self.calls.persistent:
            self.functions[f"persistent {wire}"] = self._engine(self.native.operations(buffer, 0))
        for name, way in self.own.items():
            way.share(buffer)
            self.functions[f"{name} {wire}"] = self._engine(way.operations(buffer, 0))

    def _engine(self, operations):
        engine = Engine([[operations]], 1, self.calls.test)

        def once():
            seen = engine.arrivals
            engine.mark(0, 0, ready=True)
            self.ranks.until(lambda: engine.advance() or engine.quiet, rest=lambda pause: engine.rest(pause, seen))

        return once


def readings(ranks, size, rounds):
    """{name: seconds of a sum on each rank}: the median of so many rounds, in which they take turns."""
    ways = Ways(ranks, size)
    counts = {name: _count(ranks, once) for name, once in ways.functions.items()}
    found = {name: [] for name in counts}
    for _ in range(rounds):
        for name, once in ways.functions.items():
            found[name].append(_reading(ranks, once, counts[name]) / counts[name])
    ways.calls.free()
    return {name: ranks.gather(statistics.median(each)) for name, each in found.items()}


def _count(ranks, once):
    """How many sums make a reading long enough; the same on all ranks."""
    _reading(ranks, once, 1)
    return max(1, int(ranks.bcast(LEAST / _reading(ranks, once, 1))))


def _reading(ranks, once, count):
    ranks.meet()
    start = time.perf_counter()
    for _ in range(count):
        once()
    return time.perf_counter() - start


def rows(ranks, size, rounds):
    """A dictionary for each way; METRICS.md has the formulas."""
    seconds = readings(ranks, size, rounds)
    blocking = statistics.mean(seconds["blocking float32"])
    for name, each in seconds.items():
        way, wire = name.split()
        mean = statistics.mean(each)
        yield {"bytes": size, "way": way, "wire": wire, "seconds": mean, "least_seconds": min(each),
               "most_seconds": max(each), "algorithm_bandwidth": size / mean,
               "bus_bandwidth": 2 * (ranks.size - 1) / ranks.size * size / mean, "ratio": blocking / mean}


def line(row):
    """A row of the table."""
    return LINE.format(row["bytes"], f"{row['way']} {row['wire']}", *(
        f"{1e6 * row[key]:,.1f}" for key in ("seconds", "least_seconds", "most_seconds")), *(
        f"{row[key] / 1e9:.3f}" for key in ("algorithm_bandwidth", "bus_bandwidth")), f"{row['ratio']:.2f}")


def fit(found):
    """The LinkModel of non-blocking float32 sums: latency from the smallest, time a byte from the largest."""
    times = {row["bytes"]: row["seconds"] for row in found if (row["way"], row["wire"]) == ("non-blocking", "float32")}
    return LinkModel.between(*min(times.items()), *max(times.items()))


def draw(figures, path):
    """Seconds by size, a line for each way."""
    found = figures["rows"]
    figure = plots.figure(figsize=(6.5, 4.5))
    axes = figure.subplots()
    for way, wire in dict.fromkeys((row["way"], row["wire"]) for row in found):
        points = [(row["bytes"], row["seconds"]) for row in found if (row["way"], row["wire"]) == (way, wire)]
        axes.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=f"{way}, {wire} on the wire",
                    linestyle="-" if wire == "float32" else "--")
    plots.finish(axes, "bytes of float32 to be summed", "seconds, mean over the ranks")
    plots.save(figure, path)


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench allreduce", description=__doc__)
    p.add_argument("--sizes", type=shared.sizes, default=SIZES, metavar="A,B,...",
                   help="sizes in bytes of float32 (default: powers of 4 up to 64 MiB)")
    shared.add(p, {}, rounds=5)
    plots.add_option(p, "times against sizes")
    return p


def main(argv):
    """Measure, print, and save."""
    with shared.job(parser(), argv) as (ranks, options):
        ranks.agree(lambda: shared.begin_on(ranks, options))
        found = []
        with counting(ranks, len(options.sizes)) as (say, count):
            say(HEAD, style="bold")
            for size in options.sizes:
                ranks.where = f"allreduce of {size} bytes"
                for row in rows(ranks, size, options.rounds):
                    found.append(row)
                    say(line(row))
                count()
            link = fit(found)
            say(f"non-blocking float32: {link}")
        ranks.agree(lambda: shared.save(options, {"rows": found, "link": link._asdict()}, draw))
