"""Causal attention, one head of one sequence at a time: blocks of scores, from the micro-kernel, that stay in cache.

Forward keeps a running maximum and sum for each query; backward makes the probabilities anew from the saved logarithms.
"""

from typing import NamedTuple

import numpy as np

from kernels import compiled, micro, scratch
from kernels.attention import pairs
from kernels.attention.heads import (
    INFINITY,
    KEYS,
    TILES,
    ZERO,
    dot,
    finish,
    head_of,
    online,
    plain,
    product,
    score,
    slope,
    turned,
)
from kernels.bfloat16 import rounded, widened
from kernels.matmul.packed import pack
from kernels.micro import ACCUMULATE
from kernels.threads import parallel_for

jit = compiled.kernel(fastmath={"contract"})


class Workspace(NamedTuple):
    """A thread's working memory for one head.

    keys, values     packed panels (panels, D, columns of the tile) of k and of v
    scores, slopes   a block (queries, KEYS) of scores, and of gradients by them
    """

    keys: np.ndarray
    values: np.ndarray
    scores: np.ndarray
    slopes: np.ndarray


def _workspace(tile, T, D):
    panels, block = (-(-T // tile.columns), D, tile.columns), (TILES * tile.rows, KEYS)
    return Workspace(*(scratch.array(f"attention {name}", shape)
                  for name, shape in zip(Workspace._fields, (panels, panels, block, block), strict=True)))


def _for_each_head(function, arrays, lse):
    """function(tile, arrays..., lse, working memory, first, last) for parts of all N * heads."""
    (N, heads, T), tile = lse.shape, micro.tile()
    D = arrays[0].shape[2] // 3 // heads
    parallel_for(N * heads, lambda first, last: function(tile, *arrays, lse, _workspace(tile, T, D), first, last))


def _in_pairs(qkv, lse):
    """Whether the channels of each head, of bfloat16, are pairs."""
    return qkv.dtype == np.uint16 and qkv.shape[2] // 3 // lse.shape[1] % 2 == 0


def forward(qkv, y, lse):
    """Write y (N,T,C) and lse (N,heads,T), from qkv (N,T,3C)."""
    if _in_pairs(qkv, lse):
        pairs.forward(qkv, y, lse)
        return
    if qkv.dtype == np.uint16:
        rounded(lambda target: forward(widened("qkv", qkv), target, lse), y)
        return
    _for_each_head(_forward, [qkv, y], lse)


def backward(dy, qkv, y, lse, dqkv):
    """Write dqkv (N,T,3C)."""
    if _in_pairs(qkv, lse):
        pairs.backward(dy, qkv, y, lse, dqkv)
        return
    if qkv.dtype == np.uint16:
        wide = (widened(name, each) for name, each in (("dy", dy), ("qkv", qkv), ("y", y)))
        rounded(lambda target: backward(*wide, lse, target), dqkv)
        return
    _for_each_head(_backward, [qkv, y, dy, dqkv], lse)


@jit
def _forward(tile, qkv, y, lse, space, first, last):
    heads, T = lse.shape[1:]
    D, rows = y.shape[2] // heads, len(space.scores)
    scale, tops, sums = np.float32(1 / np.sqrt(D)), np.empty(rows, np.float32), np.empty(rows, np.float32)
    for item in range(first, last):
        q, k, v = head_of(qkv, item, heads, 0, D), head_of(qkv, item, heads, 1, D), head_of(qkv, item, heads, 2, D)
        out = head_of(y, item, heads, 0, D)
        pack(k, True, 0, len(space.keys), space.keys)
        for i in range(0, T, rows):
            count = min(rows, T - i)
            tops[:], sums[:] = -INFINITY, ZERO
            for j in range(0, i + count, KEYS):
                width = min(KEYS, i + count - j)
                score(tile, q[i:i + count], space.keys, j, width, space.scores)
                for r in range(count):
                    seen = max(0, min(width, i + r - j + 1))
                    tops[r], sums[r] = online(space.scores[r, :width], seen, scale, tops[r], sums[r], out[i + r])
                product(tile, count, plain(space.scores), v[j:j + width], out[i:i + count],
                         ACCUMULATE if j > 0 else 0)
            for r in range(count):
                finish(out[i + r], sums[r])
                lse[item // heads, item % heads, i + r] = tops[r] + np.log(sums[r])


@jit
def _backward(tile, qkv, y, dy, dqkv, lse, space, first, last):
    heads, T = lse.shape[1:]
    D, rows = y.shape[2] // heads, len(space.scores)
    scale = np.float32(1 / np.sqrt(D))
    for item in range(first, last):
        q, k, v = (head_of(qkv, item, heads, 0, D), head_of(qkv, item, heads, 1, D), head_of(qkv, item, heads, 2, D))
        dq, dk, dv = (head_of(dqkv, item, heads, 0, D), head_of(dqkv, item, heads, 1, D),
                      head_of(dqkv, item, heads, 2, D))
        out, dout = head_of(y, item, heads, 0, D), head_of(dy, item, heads, 0, D)
        pack(k, True, 0, len(space.keys), space.keys)
        pack(v, True, 0, len(space.values), space.values)
        dk[:], dv[:] = ZERO, ZERO
        for i in range(0, T, rows):
            count = min(rows, T - i)
            for j in range(0, i + count, KEYS):
                width = min(KEYS, i + count - j)
                score(tile, q[i:i + count], space.keys, j, width, space.scores)
                score(tile, dout[i:i + count], space.values, j, width, space.slopes)
                for r in range(count):
                    seen = max(0, min(width, i + r - j + 1))
                    slope(space.scores[r, :width], space.slopes[r, :width], seen, scale,
                            lse[item // heads, item % heads, i + r], dot(out[i + r], dout[i + r]))
                keys = slice(j, j + width)
                product(tile, width, turned(space.scores), dout[i:i + count], dv[keys], ACCUMULATE)
                product(tile, width, turned(space.slopes), q[i:i + count], dk[keys], ACCUMULATE)
                product(tile, count, plain(space.slopes), k[keys], dq[i:i + count], ACCUMULATE if j > 0 else 0)
