"""How much of an all-reduce is hidden behind a kernel, for each way of progress and message size."""

from bench import options as shared
from bench.rows import counting
from mpilayer.compression.codecs import CODECS
from mpilayer.exchange.probe import Probe
from mpilayer.exchange.settings import Settings
from mpilayer.gpu.device import ONLY_THERE
from mpilayer.mpi.progress import PROGRESS
from mpilayer.mpi.reductions import REDUCTIONS
from mpilayer.report import plots

SIZES = [2**20, 2**22, 2**24, 2**26]
LINE = "{:>10}  {:9} {:>9} {:>9}  {:>9} {:>9} {:>9} {:>9}  {:>7} {:>9} {:>7} {:>7}"
HEAD = LINE.format("bytes", "progress", "comm ms", "comp ms", "post ms", "comp ms", "wait ms", "all ms", "hidden",
                   "slower by", "MPI ms", "looks")


def row(size, name, communication, computation, overlap):
    """A dictionary; METRICS.md has the formulas."""
    hidden = (communication + computation - overlap.total) / min(communication, computation)
    return {"bytes": size, "progress": name, "communication_seconds": communication, "compute_seconds": computation,
            "post_seconds": overlap.post, "overlapped_compute_seconds": overlap.compute,
            "wait_seconds": overlap.exposed, "total_seconds": overlap.total, "mpi_seconds": overlap.mpi,
            "looks": overlap.looks,
            "hidden": max(0.0, min(1.0, hidden)), "slowdown": overlap.compute / computation - 1}


def measure(ranks, options, say, count):
    """The rows of all sizes."""
    found, probe = [], Probe(ranks, Settings(reduction=options.reduction, wire=options.wire))
    for size in options.sizes:
        ranks.where = f"overlap of {size} bytes"
        communication, computation, overlaps = probe.overlap(size, options.chunk, options.rounds)
        for name, overlap in overlaps.items():
            found.append(row(size, name, communication, computation, overlap))
            say(line(found[-1]))
        count()
    probe.close()
    return found


def line(row):
    """A row of the table."""
    return LINE.format(row["bytes"], row["progress"], *(f"{1e3 * row[key]:.1f}" for key in (
        "communication_seconds", "compute_seconds", "post_seconds", "overlapped_compute_seconds", "wait_seconds",
        "total_seconds")), f"{row['hidden']:.0%}", f"{row['slowdown']:.1%}", f"{1e3 * row['mpi_seconds']:.1f}",
                       f"{row['looks']:.0f}")


def draw(found, path):
    """The hidden share by size, a line for each way of progress."""
    figure = plots.figure(figsize=(6, 4))
    axes = figure.subplots()
    for name in PROGRESS:
        points = [(row["bytes"] / 2**20, row["hidden"]) for row in found if row["progress"] == name]
        axes.semilogx(*zip(*points, strict=True), marker="o", markersize=4, label=f"--progress {name}")
    axes.set_ylim(-0.02, 1.02)
    plots.finish(axes, "MiB of float32 to be summed over the ranks", "share of communication hidden behind kernels")
    plots.save(figure, path)


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench overlap", description=__doc__)
    p.add_argument("--sizes", type=shared.sizes, default=SIZES, metavar="A,B,...",
                   help="sizes in bytes of float32 (default: 1, 4, 16 and 64 MiB)")
    p.add_argument("--chunk", type=shared.count, default=2**20,
                   help="bytes of each message that a sum is split into (default: 1 MiB)")
    p.add_argument("--reduction", choices=[name for name in REDUCTIONS if name not in ONLY_THERE], default="native",
                   help="how sums are made (default: native)")
    p.add_argument("--wire", choices=CODECS, default="float32", help="what travels (default: float32)")
    shared.add(p, {}, rounds=5)
    plots.add_option(p, "hidden shares against sizes")
    return p


def main(argv):
    """Measure, print, and save."""
    with shared.job(parser(), argv) as (ranks, options):
        ranks.agree(lambda: shared.begin_on(ranks, options))
        with counting(ranks, len(options.sizes)) as (say, count):
            say(HEAD, style="bold")
            found = measure(ranks, options, say, count)
        ranks.agree(lambda: shared.save(options, found, draw))
