"""Kernels limited by memory bandwidth, on the layers of the nets: GB/s, share of a copy's, and a peer's time."""

import argparse
import functools
from typing import NamedTuple

import numpy as np

import kernels
from bench import options as shared
from bench import torch_memory
from bench.kernels import open_torch
from bench.rows import compared, peer_cells, show
from bench.timing import alternate, copy_bandwidth
from kernels.activation.cases import CASES as ACTIVATIONS
from kernels.batchnorm.cases import CASES as BATCHNORMS
from kernels.check_target import HOST
from kernels.embedding.cases import CASES as EMBEDDINGS
from kernels.layernorm.cases import CASES as LAYERNORMS
from kernels.loss.cases import CASES as LOSSES
from kernels.norm.cases import CASES as NORMS
from kernels.pool.cases import CASES as POOLS
from kernels.update.cases import CASES as UPDATES
from mpilayer.base.errors import UserError

RATE, SEED, STEP = 0.5, 7, {"lr": 1e-6, "momentum": 0.9, "weight_decay": 5e-4}
SECONDS = 0.2  # at least, for each row
DRAWN = 1 << 20
LINE = "{op:22} {case:16} {pass:9} {mb:>7} {ms:>8} {gbs:>7} {share:>6} {peer:>9} {ratio:>6}"
HEAD = {"op": "op", "case": "case", "pass": "pass", "mb": "MB", "ms": "ms", "gbs": "GB/s", "share": "copy",
        "peer": "peer ms", "ratio": "ratio"}


@functools.cache
def _drawn(put):
    """Some normal numbers, put where they are wanted."""
    return put(np.random.default_rng(0).standard_normal(DRAWN, np.float32))


def random(shape, place=HOST):
    """Normal numbers where the weights of `place` are, the same each time; after some they begin anew."""
    return np.resize(_drawn(place.w), shape)


def moved(*arrays):
    """Bytes, of what is read or written once."""
    return sum(array.nbytes for array in arrays if array is not None)


def relu(case, place=HOST):
    """{pass: (bytes, function)}, as all that follow; each writes to memory of its own, where activations are put."""
    x = place.x(random(case.shape, place))
    y, dx = kernels.relu(x), np.empty_like(x)
    return {"forward": (moved(x, y), lambda: kernels.relu(x, out=y)),
            "backward": (moved(x, y, dx), lambda: kernels.relu_backward(x, y, out=dx))}


def dropout(case, place=HOST):
    """A byte of mask for every number of x."""
    x = place.x(random(case.shape, place))
    y, mask = kernels.dropout(x, RATE, seed=SEED)
    dx = np.empty_like(x)
    return {"forward": (moved(x, y, mask), lambda: kernels.dropout(x, RATE, seed=SEED, out=(y, mask))),
            "backward": (moved(x, mask, dx), lambda: kernels.dropout_backward(x, mask, RATE, out=dx))}


def lrn(case, place=HOST):
    """Across channels."""
    x, constants = place.x(random(case.shape, place)), case[2:]
    y = kernels.lrn(x, *constants)
    dy, dx = x.copy(), np.empty_like(x)
    return {"forward": (moved(x, y), lambda: kernels.lrn(x, *constants, out=y)),
            "backward": (moved(dy, x, y, dx), lambda: kernels.lrn_backward(dy, x, y, *constants, out=dx))}


def _window(case):
    return {"stride": case.stride, "padding": case.padding, "ceil_mode": case.ceil_mode}


def maxpool2d(case, place=HOST):
    """With the index that training needs."""
    x, window, options = place.x(random(case.shape, place)), case.window, _window(case)
    dx, (y, index) = np.empty_like(x), kernels.maxpool2d(x, window, **options)

    def backward():
        kernels.maxpool2d_backward(y, index, x.shape, window, **options, out=dx)

    return {"forward": (moved(x, y, index), lambda: kernels.maxpool2d(x, window, **options, out=(y, index))),
            "backward": (moved(x, y, index), backward)}


def avgpool2d(case, place=HOST):
    """Windows of any size."""
    x, window, options = place.x(random(case.shape, place)), case.window, _window(case)
    dx, y = np.empty_like(x), kernels.avgpool2d(x, window, **options)
    return {"forward": (moved(x, y), lambda: kernels.avgpool2d(x, window, **options, out=y)),
            "backward": (moved(y, dx), lambda: kernels.avgpool2d_backward(y, x.shape, window, **options, out=dx))}


def batchnorm(case, place=HOST):
    """Statistics, normalization, perhaps a residual, rectifier; back through all of them."""
    x = place.x(random(case.shape, place))
    scales, add = [*random((2, case.shape[-1]), place)], x[::-1].copy() if case.add else None
    y, dx = np.empty_like(x), np.empty_like(x)
    mean, var = kernels.batchnorm_statistics(x)
    dy = kernels.batchnorm(x, mean, var, *scales, add=add, relu=True, out=y).copy()

    def forward():
        kernels.batchnorm(x, *kernels.batchnorm_statistics(x), *scales, add=add, relu=True, out=y)

    def backward():
        sums = kernels.batchnorm_wgrad(dy, x, mean, var, y=y)
        kernels.batchnorm_dgrad(dy, x, mean, var, scales[0], *sums, out=dx)

    return {"forward": (moved(x, x, add, y), forward), "backward": (moved(dy, y, x, dy, dy, x, dx), backward)}


def layernorm(case, place=HOST):
    """Over the channels of a token."""
    x, scales = place.x(random((case.M, case.C), place)), [*random((2, case.C), place)]
    y, mean, rstd = kernels.layernorm(x, *scales)
    dx = np.empty_like(x)
    return {"forward": (moved(x, y), lambda: kernels.layernorm(x, *scales, out=y)),
            "backward": (moved(y, x, dx), lambda: kernels.layernorm_backward(y, x, mean, rstd, scales[0], out=dx))}


def gelu(case, place=HOST):
    """The smooth rectifier."""
    x = place.x(random(case.shape, place))
    y, dx = kernels.gelu(x), np.empty_like(x)
    return {"forward": (moved(x, y), lambda: kernels.gelu(x, out=y)),
            "backward": (moved(y, x, dx), lambda: kernels.gelu_backward(y, x, out=dx))}


def embedding(case, place=HOST):
    """Rows of a table, and their sums."""
    tokens, tables = place.w(case.tokens()), [random((rows, case.C), place) for rows in (case.V, case.P)]
    y = kernels.embedding(tokens, *tables, dtype=place.x(random(1, place)).dtype)
    dtable, dpositions = map(np.empty_like, tables)
    rows = y.size * 4  # of the table, float32
    return {"forward": (moved(y) + rows, lambda: kernels.embedding(tokens, *tables, out=y)),
            "backward": (moved(y) + rows, lambda: kernels.embedding_backward(y, tokens, dtable, dpositions))}


def softmax_cross_entropy(case, place=HOST):
    """Loss and gradient in one."""
    logits, labels = place.x(random((case.N, case.C), place)), place.w(np.arange(case.N) % case.C)
    loss, dlogits = out = kernels.softmax_cross_entropy(logits, labels)
    return {"both": (moved(logits, labels, loss, dlogits),
                     lambda: kernels.softmax_cross_entropy(logits, labels, out=out))}


def momentum_update(case, place=HOST):
    """In place."""
    w, g, v = place.w(np.zeros(case.size, np.float32)), random(case.size, place), random(case.size, place)
    return {"update": (moved(w, g, v, w, v), lambda: kernels.momentum_update(w, g, v, **STEP))}


def adamw_update(case, place=HOST):
    """In place: reads w, g, m and v, writes all but g."""
    w, m, v = (place.w(np.zeros(case.size, np.float32)) for _ in range(3))
    g = random(case.size, place)
    return {"update": (7 * g.nbytes, lambda: kernels.adamw_update(w, g, m, v, lr=1e-6, step=1))}


class Op(NamedTuple):
    """An operation: its cases, of which the nets' are measured, our functions and those of the peer."""

    cases: list
    ours: callable
    torch: callable
    passes: tuple = ("forward", "backward")


OPS = {
    "relu": Op(ACTIVATIONS, relu, torch_memory.relu),
    "dropout": Op(ACTIVATIONS, dropout, lambda case, *dtype: torch_memory.dropout(case, RATE, *dtype)),
    "lrn": Op(NORMS, lrn, torch_memory.lrn),
    "batchnorm": Op(BATCHNORMS, batchnorm, torch_memory.batchnorm),
    "layernorm": Op(LAYERNORMS, layernorm, torch_memory.layernorm),
    "gelu": Op(ACTIVATIONS, gelu, torch_memory.gelu),
    "embedding": Op(EMBEDDINGS, embedding, torch_memory.embedding),
    "maxpool2d": Op([case for case in POOLS if case.kind == "max"], maxpool2d, torch_memory.maxpool2d),
    "avgpool2d": Op([case for case in POOLS if case.kind == "avg"], avgpool2d, torch_memory.avgpool2d),
    "softmax_cross_entropy": Op(LOSSES, softmax_cross_entropy, torch_memory.cross_entropy, ("both",)),
    "momentum_update": Op(UPDATES, momentum_update, lambda case, *dtype: torch_memory.sgd(case, **STEP), ("update",)),
    "adamw_update": Op(UPDATES, adamw_update, torch_memory.adamw, ("update",)),
}
PEERS = {"torch": open_torch}
NETS = ("alexnet", "googlenet", "resnet", "transformer")  # other cases are for tests


def select(part):
    """[(name of an op, case)]. Raises UserError if there is none."""
    chosen = [(name, case) for name, op in OPS.items() if part in name
              for case in op.cases if case.name.startswith(NETS)]
    if not chosen:
        raise UserError(f"no op {part!r} | expected part of one of {', '.join(OPS)}")
    return chosen


def measure(chosen, options, copy):
    """Yield a row for each pass of each case."""
    for name, case in chosen:
        mine = OPS[name].ours(case)
        theirs = getattr(OPS[name], options.peer)(case) if options.peer else dict.fromkeys(mine, {})
        for which, (moved, function) in mine.items():
            times = alternate({"ours": function, **theirs[which]}, rounds=options.rounds, seconds=SECONDS)
            seconds = times.pop("ours")
            yield {"op": name, "case": case.name, "pass": which, "bytes": moved, **compared(seconds, times),
                   "gb_per_s": moved / seconds / 1e9, "copy_share": moved / seconds / 1e9 / copy}


def line(row):
    """A row as text."""
    text = {"mb": f"{row['bytes'] / 1e6:.2f}", "ms": f"{1e3 * row['seconds']:.3f}", "gbs": f"{row['gb_per_s']:.1f}",
            "share": f"{row['copy_share']:.0%}", **peer_cells(row)}
    return LINE.format(**row | text).rstrip()


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m bench memory", description=__doc__)
    p.add_argument("--op", default="", metavar="PART", help="only operations named so in part")
    shared.add(p, PEERS, rounds=9)
    return p


def main(argv):
    """Measure, print, and save."""
    options = parser().parse_args(argv)
    chosen = select(options.op)
    shared.begin(options)
    if options.peer:
        PEERS[options.peer]()
    copy = copy_bandwidth()
    head = f"{shared.threads(options)}, copy {copy:.1f} GB/s", LINE.format(**HEAD)
    total = sum(len(OPS[name].passes) for name, _ in chosen)
    rows, _ = show(head, measure(chosen, options, copy), total, line)
    shared.save(options, rows)
