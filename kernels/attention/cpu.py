"""Causal attention, one head of one sequence at a time: blocks of scores, from the micro-kernel, that stay in cache.

Forward keeps a running maximum and sum for each query; backward makes the probabilities anew from the saved logarithms.
"""

from typing import NamedTuple

import numpy as np

from kernels import compiled, micro, scratch
from kernels.bfloat16 import rounded, widened
from kernels.exponential import exp, row_max, row_sum
from kernels.matmul.packed import pack
from kernels.micro import ACCUMULATE, multiply
from kernels.threads import parallel_for

jit, inner = compiled.decorators(fastmath={"contract"})
KEYS = 128  # of a block of scores
TILES = 4  # of queries in a block, one below the other
FLOAT = 4
ZERO, ONE, INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)


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


def forward(qkv, y, lse):
    """Write y (N,T,C) and lse (N,heads,T), from qkv (N,T,3C)."""
    if qkv.dtype == np.uint16:
        rounded(lambda target: forward(widened("qkv", qkv), target, lse), y)
        return
    _for_each_head(_forward, [qkv, y], lse)


def backward(dy, qkv, y, lse, dqkv):
    """Write dqkv (N,T,3C)."""
    if qkv.dtype == np.uint16:
        wide = (widened(name, each) for name, each in (("dy", dy), ("qkv", qkv), ("y", y)))
        rounded(lambda target: backward(*wide, lse, target), dqkv)
        return
    _for_each_head(_backward, [qkv, y, dy, dqkv], lse)


@inner
def _head(a, item, heads, part, D):
    """(T,D): a head's queries (part 0), keys or values of a (N,T,parts * heads * D)."""
    n, h = item // heads, item % heads
    begin = (part * heads + h) * D
    return a[n, :, begin:begin + D]


@inner
def _product(tile, rows, a, b, c, mode):
    """c (rows,D) = a b, or + c: a is (address, row stride, k stride), b (depth,D)."""
    D, wide = b.shape[1], tile.columns
    for d in range(0, D, wide):
        multiply(tile, rows, min(wide, D - d), len(b), a, (b[:, d:].ctypes.data, b.strides[0]),
                 (c[:, d:].ctypes.data, c.strides[0]), mode, (a[0], 0, 0))


@inner
def _scores(tile, q, panels, first, width, scores):
    """scores[:, :width] = q times the packed panels from key `first` on."""
    wide = tile.columns
    for j in range(0, width, wide):
        multiply(tile, len(q), min(wide, width - j), q.shape[1], (q.ctypes.data, q.strides[0], FLOAT),
                 (panels[(first + j) // wide].ctypes.data, wide * FLOAT),
                 (scores[:, j:].ctypes.data, scores.strides[0]), 0, (q.ctypes.data, 0, 0))


@inner
def _plain(scores):
    """A block of scores as the left factor of a product: (address, row stride, k stride)."""
    return scores.ctypes.data, scores.strides[0], FLOAT


@inner
def _transposed(scores):
    return scores.ctypes.data, FLOAT, scores.strides[0]


@inner
def _online(row, seen, scale, highest, sum_so_far, out):
    """Turn the seen scores into exponentials, the others into 0; (maximum, sum of exponentials) with those before.

    What was summed up relative to another maximum, `out` and the sum, is scaled.
    """
    row[seen:] = ZERO
    if seen == 0:
        return highest, sum_so_far
    row = row[:seen]
    top = max(highest, scale * row_max(row))
    for c in range(row.size):
        row[c] = exp(scale * row[c] - top)
    if highest == -INFINITY:
        return top, row_sum(row)
    factor = exp(highest - top)
    for d in range(out.size):
        out[d] *= factor
    return top, sum_so_far * factor + row_sum(row)


@jit
def _forward(tile, qkv, y, lse, space, first, last):
    heads, T = lse.shape[1:]
    D, rows = y.shape[2] // heads, len(space.scores)
    scale, tops, sums = np.float32(1 / np.sqrt(D)), np.empty(rows, np.float32), np.empty(rows, np.float32)
    for item in range(first, last):
        q, k, v, out = (_head(qkv, item, heads, 0, D), _head(qkv, item, heads, 1, D), _head(qkv, item, heads, 2, D),
                        _head(y, item, heads, 0, D))
        pack(k, True, 0, len(space.keys), space.keys)
        for i in range(0, T, rows):
            count = min(rows, T - i)
            tops[:], sums[:] = -INFINITY, ZERO
            for j in range(0, i + count, KEYS):
                width = min(KEYS, i + count - j)
                _scores(tile, q[i:i + count], space.keys, j, width, space.scores)
                for r in range(count):
                    seen = max(0, min(width, i + r - j + 1))
                    tops[r], sums[r] = _online(space.scores[r, :width], seen, scale, tops[r], sums[r], out[i + r])
                _product(tile, count, _plain(space.scores), v[j:j + width], out[i:i + count],
                         ACCUMULATE if j > 0 else 0)
            for r in range(count):
                _finish(out[i + r], sums[r])
                lse[item // heads, item % heads, i + r] = tops[r] + np.log(sums[r])


@inner
def _finish(row, sum_of_all):
    scale = ONE / sum_of_all
    for d in range(row.size):
        row[d] *= scale


@jit
def _backward(tile, qkv, y, dy, dqkv, lse, space, first, last):
    heads, T = lse.shape[1:]
    D, rows = y.shape[2] // heads, len(space.scores)
    scale = np.float32(1 / np.sqrt(D))
    for item in range(first, last):
        q, k, v = (_head(qkv, item, heads, 0, D), _head(qkv, item, heads, 1, D), _head(qkv, item, heads, 2, D))
        dq, dk, dv = (_head(dqkv, item, heads, 0, D), _head(dqkv, item, heads, 1, D), _head(dqkv, item, heads, 2, D))
        out, dout = _head(y, item, heads, 0, D), _head(dy, item, heads, 0, D)
        pack(k, True, 0, len(space.keys), space.keys)
        pack(v, True, 0, len(space.values), space.values)
        dk[:], dv[:] = ZERO, ZERO
        for i in range(0, T, rows):
            count = min(rows, T - i)
            for j in range(0, i + count, KEYS):
                width = min(KEYS, i + count - j)
                _scores(tile, q[i:i + count], space.keys, j, width, space.scores)
                _scores(tile, dout[i:i + count], space.values, j, width, space.slopes)
                for r in range(count):
                    seen = max(0, min(width, i + r - j + 1))
                    _slopes(space.scores[r, :width], space.slopes[r, :width], seen, scale,
                            lse[item // heads, item % heads, i + r], _dot(out[i + r], dout[i + r]))
                keys = slice(j, j + width)
                _product(tile, width, _transposed(space.scores), dout[i:i + count], dv[keys], ACCUMULATE)
                _product(tile, width, _transposed(space.slopes), q[i:i + count], dk[keys], ACCUMULATE)
                _product(tile, count, _plain(space.slopes), k[keys], dq[i:i + count], ACCUMULATE if j > 0 else 0)


@compiled.part(fastmath={"reassoc", "contract"})
def _dot(a, b):
    sum_of_all = ZERO
    for d in range(a.size):
        sum_of_all += a[d] * b[d]
    return sum_of_all


@inner
def _slopes(scores, slopes, seen, scale, lse, inner):
    """Scores become probabilities; gradients by probabilities become those by scores."""
    scores[seen:], slopes[seen:] = ZERO, ZERO
    for c in range(seen):
        p = exp(scale * scores[c] - lse)
        scores[c] = p
        slopes[c] = scale * p * (slopes[c] - inner)
