"""Convolution, dense layers and attention of the nets: GFLOP/s, share of the peak, and a peer's time."""

import argparse
import ctypes
import os
import statistics
import sys

import numpy as np
from rich.table import Table

import kernels
from bench import layers
from bench import options as shared
from bench.layers import CASES, PASSES, flops, kind, ours, shape, torch_functions
from bench.rows import compared, peer_cells, show
from bench.samples import draw
from bench.timing import alternate, copy_bandwidth, peak
from kernels import gpu
from mpilayer.base.cli import natural
from mpilayer.base.errors import UserError

SECONDS = 0.2  # at least, for each row
GOOD = 0.9  # of the peer's speed
LINE = "{net:9} {layer:13} {pass:7} {shape:30} {ms:>8} {gflops:>8} {share:>6} {peer:>9} {ratio:>6}"
HEAD = {"net": "net", "layer": "layer", "pass": "pass", "shape": "x * w / stride", "ms": "ms",
        "gflops": "GFLOP/s", "share": "peak", "peer": "peer ms", "ratio": "ratio"}


def open_torch():
    """PyTorch with as many threads as ours and the memory habits of NumPy: huge pages, what is freed stays ours."""
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    try:
        import torch
    except ImportError:
        raise UserError('--peer torch needs PyTorch | try: pip install -e ".[bench]"') from None
    torch.set_num_threads(kernels.num_threads())
    torch.set_grad_enabled(False)
    if sys.platform == "linux":  # else every large result would be new pages from the system, zeroed anew
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_mmap_max, 0)


def one_thread(case, *arrays):
    """{pass: {way: function}} of our own kernels on one thread."""
    threads = kernels.num_threads()

    def alone(function):
        def call():
            kernels.set_num_threads(1)
            try:
                function()
            finally:
                kernels.set_num_threads(threads)
        return call

    return {name: {"alone": alone(function)} for name, function in ours(case, *arrays).items()}


PEERS = {"torch": (open_torch, torch_functions), "one-thread": (lambda: None, one_thread)}


def _wanted(case, options):
    return [name for name in layers.passes(case) if options.only in (None, name)]


def select(options):
    """[(case, batch, its passes)]. Raises UserError if there is none."""
    if options.random and (options.net or options.layer):
        raise UserError("--random draws layers of no net | try: without --net and --layer")
    cases = [(case, options.batch) for case in CASES if options.net in (None, case.net) and options.layer in case.name]
    cases = draw(options.random, options.seed) if options.random else cases
    chosen = [(*each, passes) for each in cases if (passes := _wanted(each[0], options))]
    if not chosen:
        names = ", ".join(case.name for case in CASES if options.net in (None, case.net))
        raise UserError(f"no layer {options.layer!r} with such a pass | expected part of one of {names}")
    return chosen


def measure(chosen, options, most):
    """Yield a row for each pass of each case."""
    for case, batch, passes in chosen:
        rng = np.random.default_rng(0)
        room = [kernels.empty(sizes) for sizes in case.shapes(batch)]
        arrays = [rng.standard_normal(out=array, dtype=np.float32) for array in room]
        if options.precision == "bfloat16":
            arrays = [array.astype(gpu.bfloat16()) for array in arrays]  # weights as nets have them for products
        mine = ours(case, *arrays)
        theirs = PEERS[options.peer][1](case, *arrays) if options.peer else dict.fromkeys(passes, {})
        for name in passes:
            times = alternate({"ours": mine[name], **theirs[name]}, rounds=options.rounds, seconds=SECONDS)
            yield row(case, name, batch, most, times.pop("ours"), times)


def row(case, name, batch, most, mine, theirs):
    """What is known of one pass; METRICS.md has the formulas."""
    gflops = flops(case, name, batch) / mine / 1e9
    return {"net": case.net, "layer": case.name, "kind": kind(case), "pass": name, "shape": shape(case, batch),
            **compared(mine, theirs), "gflops": gflops, "peak_share": gflops / most}


def line(row):
    """A row as text."""
    text = {"ms": f"{1e3 * row['seconds']:.3f}", "gflops": f"{row['gflops']:.1f}",
            "share": f"{row['peak_share']:.0%}", **peer_cells(row)}
    return LINE.format(**row | text).rstrip()


def means(rows):
    """{group: (its rows, geometric mean of their ratios)}."""
    groups = {"all": rows, "conv": [row for row in rows if row["kind"] not in ("dense", "attention")],
              **{name: [row for row in rows if row["pass"] == name] for name in PASSES}}
    for row in rows:
        groups.setdefault(row["kind"], []).append(row)
    return {what: (len(group), statistics.geometric_mean(r["ratio"] for r in group))
            for what, group in groups.items() if group}


def summary(rows, peer):
    """The geometric means as a table."""
    table = Table("geometric mean of", "rows", f"{peer} / ours")
    for what, (count, mean) in means(rows).items():
        table.add_row(what, str(count), f"{mean:.2f}")
    return table


def report(chosen, options):
    """Measure, and print each row as it comes; return them all."""
    most, total = peak(options.precision) * options.threads, sum(len(passes) for *_, passes in chosen)
    batch = "any batch" if options.random else f"batch {options.batch}"
    head = (f"{options.precision}, {shared.threads(options)}, {batch}, "
            f"peak {most:.1f} GFLOP/s, copy {copy_bandwidth():.1f} GB/s", LINE.format(**HEAD))
    rows, say = show(head, measure(chosen, options, most), total, line)
    if options.peer:
        say(summary(rows, options.peer))
        say(f"{np.mean([one['ratio'] >= GOOD for one in rows]):.0%} of the rows at {GOOD} or more")
        say("worst: " + line(min(rows, key=lambda one: one["ratio"])))
    return rows


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m bench kernels", description=__doc__)
    p.add_argument("--net", choices=sorted({case.net for case in CASES}), help="only this net (default: all)")
    p.add_argument("--pass", dest="only", choices=PASSES, help="only this pass (default: all)")
    p.add_argument("--layer", default="", metavar="PART", help="only layers named so in part")
    p.add_argument("--random", type=shared.count, default=0, metavar="N",
                   help="instead: so many layers of random shape and batch")
    p.add_argument("--seed", type=natural, default=0, help="with --random: which ones (default: 0)")
    shared.add(p, PEERS, rounds=9)
    p.add_argument("--batch", type=shared.count, default=16, help="images (default: 16)")
    shared.add_precision(p)
    return p


def main(argv):
    """Measure, print, and save."""
    options = parser().parse_args(argv)
    chosen = select(options)
    shared.begin(options)
    if options.peer:
        PEERS[options.peer][0]()
    shared.save(options, report(chosen, options))
