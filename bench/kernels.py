"""Convolution and dense layers of the nets: GFLOP/s, share of the peak, and a peer's time."""

import argparse
import ctypes
import os
import statistics
import sys

import numpy as np
from rich.table import Table

import kernels
from bench import options as shared
from bench.rows import compared, peer_cells, show
from bench.samples import draw
from bench.timing import alternate, copy_bandwidth, peak
from kernels import gpu
from kernels.conv2d.cases import CASES as CONVOLUTIONS
from kernels.dense.cases import CASES as DENSE
from mpilayer.base.cli import natural
from mpilayer.base.errors import UserError

PASSES = ("forward", "dgrad", "wgrad")
CASES = [case for case in (*CONVOLUTIONS, *DENSE) if case.net != "odd"]
SECONDS = 0.2  # at least, for each row
GOOD = 0.9  # of the peer's speed
LINE = "{net:9} {layer:13} {pass:7} {shape:30} {ms:>8} {gflops:>8} {share:>6} {peer:>9} {ratio:>6}"
HEAD = {"net": "net", "layer": "layer", "pass": "pass", "shape": "x * w / stride", "ms": "ms",
        "gflops": "GFLOP/s", "share": "peak", "peer": "peer ms", "ratio": "ratio"}


def blank(array):
    """Memory for another one like it."""
    return np.empty_like(array) if gpu.is_array(array) else kernels.empty(array.shape, array.dtype)


def ours(case, x, w, dy):
    """{pass: function} of our kernels, each into its own memory."""
    y, dx, dw = map(blank, (dy, x, w))
    if not hasattr(case, "window"):
        return {"forward": lambda: kernels.dense(x, w, out=y),
                "dgrad": lambda: kernels.dense_dgrad(dy, w, out=dx),
                "wgrad": lambda: kernels.dense_wgrad(x, dy, out=dw)}
    return {"forward": lambda: kernels.conv2d(x, w, out=y, **case.options),
            "dgrad": lambda: kernels.conv2d_dgrad(dy, w, x.shape, out=dx, **case.options),
            "wgrad": lambda: kernels.conv2d_wgrad(x, dy, w.shape, out=dw, **case.options)}


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


def _tensor(array, like):
    """The same numbers as a tensor of PyTorch, here or on the GPU; bfloat16 if `like` is."""
    import torch

    if not gpu.is_array(array) and array.dtype.name == "bfloat16":  # which NumPy's ways to PyTorch do not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    short = like.dtype.name == "bfloat16" and not gpu.is_array(like)
    return torch.from_dlpack(array).bfloat16() if short else torch.from_dlpack(array)


def _torch_dense(x, w, dy):
    """{pass: {layout of the weights: function}}."""
    import torch

    x, w_ck, dy = (_tensor(array, x) for array in (x, w, dy))
    w_kc = w_ck.t().contiguous()
    return {"forward": {"CK": lambda: x @ w_ck, "KC": lambda: torch.nn.functional.linear(x, w_kc)},
            "dgrad": {"CK": lambda: dy @ w_ck.t(), "KC": lambda: dy @ w_kc},
            "wgrad": {"CK": lambda: x.t() @ dy, "KC": lambda: dy.t() @ x}}


def _torch_conv(case, x, w, dy):
    """{pass: {memory format: function}}."""
    import torch

    axes = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
    nchw = [_tensor(array, x).permute(order) for array, order in zip((x, w, dy), axes, strict=True)]
    stride, padding, dilation, none = ([value, value] for value in (case.stride, case.padding, case.dilation, 0))

    def functions(layout):
        x, w, dy = (tensor.clone(memory_format=layout) for tensor in nchw)

        def backward(*mask):
            return torch.ops.aten.convolution_backward(dy, x, w, None, stride, padding, dilation, False, none,
                                                       case.groups, mask)

        return {"forward": lambda: torch.nn.functional.conv2d(x, w, **case.options),
                "dgrad": lambda: backward(True, False, False), "wgrad": lambda: backward(False, True, False)}

    layouts = {"NCHW": functions(torch.contiguous_format), "NHWC": functions(torch.channels_last)}
    return {name: {layout: layouts[layout][name] for layout in layouts} for name in PASSES}


def torch_functions(case, x, w, dy):
    """{pass: {layout: function}} of PyTorch, on the same numbers, here or on the GPU."""
    return _torch_conv(case, x, w, dy) if hasattr(case, "window") else _torch_dense(x, w, dy)


PEERS = {"torch": (open_torch, torch_functions)}


def shape(case, batch):
    """x * w / stride : dilation, as in 16x27x27x96 * 5x5x48x256."""
    x, w = ("x".join(map(str, sizes)) for sizes in case.shapes(batch)[:2])
    return f"{x} * {w}" + "".join(f" {sign} {value}" for sign, value in _steps(case))


def _steps(case):
    """[(sign, stride or dilation)] that is not 1."""
    named = (("/", getattr(case, "stride", 1)), (":", getattr(case, "dilation", 1)))
    return [(sign, value) for sign, value in named if value > 1]


def kind(case):
    """Which layers it is compared with: dense, or as in 3x3 / 2, 7x7 depthwise."""
    if not hasattr(case, "window"):
        return "dense"
    words = [f"{case.window}x{case.window}", *(f"{sign} {value}" for sign, value in _steps(case))]
    return " ".join([*words, *(["depthwise"] if case.groups == case.channels > 1 else [])])


def _passes(case, options):
    """No layer needs the gradient by the image."""
    wanted = [options.only] if options.only else PASSES
    return [name for name in wanted if not (name == "dgrad" and case.channels == 3)]


def select(options):
    """[(case, batch, its passes)]. Raises UserError if there is none."""
    if options.random:
        return [(case, batch, _passes(case, options)) for case, batch in draw(options.random, options.seed)]
    cases = [case for case in CASES if options.net in (None, case.net) and options.layer in case.name]
    chosen = [(case, options.batch, passes) for case in cases if (passes := _passes(case, options))]
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
            arrays[::2] = (array.astype(gpu.bfloat16()) for array in arrays[::2])  # weights are float32
        mine = ours(case, *arrays)
        theirs = PEERS[options.peer][1](case, *arrays) if options.peer else dict.fromkeys(passes, {})
        for name in passes:
            times = alternate({"ours": mine[name], **theirs[name]}, rounds=options.rounds, seconds=SECONDS)
            yield row(case, name, batch, most, times.pop("ours"), times)


def row(case, name, batch, most, mine, theirs):
    """What is known of one pass; METRICS.md has the formulas."""
    gflops = case.flops(batch) / mine / 1e9
    return {"net": case.net, "layer": case.name, "kind": kind(case), "pass": name, "shape": shape(case, batch),
            **compared(mine, theirs), "gflops": gflops, "peak_share": gflops / most}


def line(row):
    """A row as text."""
    text = {"ms": f"{1e3 * row['seconds']:.3f}", "gflops": f"{row['gflops']:.1f}",
            "share": f"{row['peak_share']:.0%}", **peer_cells(row)}
    return LINE.format(**row | text).rstrip()


def means(rows):
    """{group: (its rows, geometric mean of their ratios)}."""
    groups = {"all": rows, "conv": [row for row in rows if row["kind"] != "dense"],
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
