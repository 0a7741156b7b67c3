"""The progress hook of kernels: what it costs, and how regularly it is called."""

import argparse

import numpy as np
from numba import carray, cfunc, types
from rich.table import Table

import kernels
from bench import options as shared
from bench.layers import CASES, ours
from bench.rows import console
from bench.timing import alternate
from kernels.progress import now

ROOM = 1 << 16
LAYERS = ("alexnet conv1", "alexnet conv2", "alexnet fc6", "googlenet conv2", "googlenet 3b/1x1", "googlenet 4b/3x3",
          "resnet50 4a/3x3")


@cfunc(types.void(types.CPointer(types.int64)))
def _record(pointer):
    """The number of calls, then the time of each in nanoseconds."""
    words = carray(pointer, ROOM)
    words[0] += 1
    if words[0] < ROOM:
        words[words[0]] = now()


def measure(case, every_us, rounds):
    """Seconds without the hook and with it, and the intervals between calls in microseconds."""
    rng, words = np.random.default_rng(0), np.zeros(ROOM, np.int64)
    function = ours(case, *(rng.standard_normal(sizes, np.float32) for sizes in case.shapes(16)))["forward"]

    def hooked():
        kernels.set_progress(_record.address, words.ctypes.data, every_us)
        function()
        kernels.set_progress(0)

    times = alternate({"without": function, "with": hooked}, rounds=rounds, seconds=1)
    words[0] = 0
    hooked()
    return times, np.diff(words[1:min(words[0] + 1, ROOM)]) / 1e3


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m bench hook", description=__doc__)
    p.add_argument("--every", type=float, default=50, metavar="US",
                   help="microseconds from one call to the next (default: 50)")
    shared.add(p, {}, rounds=9)
    return p


def main(argv):
    """Measure, print, and save."""
    options = parser().parse_args(argv)
    shared.begin(options)
    table, figures = Table("forward of", "ms", "with hook", "cost", "calls", "median us", "longest us"), []
    for case in CASES:
        name = f"{case.net} {case.name}"
        if name in LAYERS:
            times, intervals = measure(case, options.every, options.rounds)
            cost = times["with"] / times["without"] - 1
            middle, most = (float(f(intervals)) if intervals.size else 0.0 for f in (np.median, np.max))
            figures.append({"layer": name, "seconds": times["without"], "hooked_seconds": times["with"], "cost": cost,
                            "calls": len(intervals) + 1, "median_us": middle, "longest_us": most})
            table.add_row(name, f"{1e3 * times['without']:.2f}", f"{1e3 * times['with']:.2f}", f"{cost:.1%}",
                          str(len(intervals) + 1), f"{middle:.0f}", f"{most:.0f}")
    console().print(f"every {options.every:g} us, {shared.threads(options)}", table)
    shared.save(options, figures)
