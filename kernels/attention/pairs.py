"""Attention of bfloat16, uint16 with its bits: cpu.py's loops on pairs of numbers.

Scores are sums over channels, and two channels of a query or key lie together. In the sums over keys and over queries
pairs are of two rows, interleaved on the way into working memory; probabilities are rounded there.
"""

from typing import NamedTuple

import numpy as np

from kernels import compiled, micro, scratch
from kernels.attention.heads import (
    INFINITY,
    KEYS,
    TILES,
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
from kernels.bfloat16 import nearest
from kernels.matmul.packed import pack
from kernels.matmul.pairs import interleave
from kernels.micro import ACCUMULATE
from kernels.threads import parallel_for

jit, inner = compiled.decorators(fastmath={"contract"})


class Workspace(NamedTuple):
    """A thread's working memory for one head; those of pairs are there as float32 and as uint16, (one, the other).

    keys, values          packed panels (panels, D/2, columns of the tile) of pairs of k's and v's channels
    rows                  pairs (T/2, D) of rows of v, or of k backward
    queries, slopes_out   pairs (queries/2, D) of rows of q and dy
    scores, slopes        a block (queries, KEYS) of scores, and of gradients by them
    along                 the block whose sum is over keys, pairs (queries, KEYS/2) of neighbours
    down, slopes_down     both, pairs (queries/2, KEYS) of rows
    sums                  (queries, D) of y or dq
    key_sums, value_sums  (T, D) of dk and dv
    """

    keys: np.ndarray
    values: np.ndarray
    rows: tuple
    queries: tuple
    slopes_out: tuple
    scores: np.ndarray
    slopes: np.ndarray
    along: tuple
    down: tuple
    slopes_down: tuple
    sums: np.ndarray
    key_sums: np.ndarray
    value_sums: np.ndarray


def _workspace(tile, T, D):
    queries, half = TILES * tile.rows, TILES * tile.rows // 2
    panels = -(-T // tile.columns), D // 2, tile.columns
    shapes = Workspace(panels, panels, ((-(-T // 2), D),), ((half, D),), ((half, D),), (queries, KEYS), (queries, KEYS),
                       ((queries, KEYS // 2),), ((half, KEYS),), ((half, KEYS),), (queries, D), (T, D), (T, D))

    def memory(name, shape):
        pairs = isinstance(shape[0], tuple)
        found = scratch.array(f"attention {name}", shape[0] if pairs else shape)
        return (found, found.view(np.uint16)) if pairs else found

    return Workspace(*map(memory, Workspace._fields, shapes))


def _for_each_head(function, arrays, lse):
    (N, heads, T), tile = lse.shape, micro.pairs_tile()
    D = arrays[0].shape[2] // 3 // heads
    parallel_for(N * heads, lambda first, last: function(tile, *arrays, lse, _workspace(tile, T, D), first, last))


def forward(qkv, y, lse):
    """Write y (N,T,C) and lse (N,heads,T), from qkv (N,T,3C)."""
    _for_each_head(_forward, [qkv, qkv.view(np.float32), y], lse)


def backward(dy, qkv, y, lse, dqkv):
    """Write dqkv (N,T,3C)."""
    _for_each_head(_backward, [qkv, qkv.view(np.float32), y, dy, dy.view(np.float32), dqkv], lse)


@inner
def _shorten(row, target):
    """Rounded, and a zero more where their number is odd."""
    for c in range(row.size):
        target[c] = nearest(row[c])
    if row.size % 2 == 1:
        target[row.size] = 0


@inner
def _round(sums, out):
    """out (rows,D) = sums, rounded."""
    for r in range(sums.shape[0]):
        for d in range(sums.shape[1]):
            out[r, d] = nearest(sums[r, d])


@jit
def _forward(tile, qkv, pairs, y, lse, space, first, last):
    heads, T = lse.shape[1:]
    D, rows = y.shape[2] // heads, len(space.scores)
    scale, tops, sums = np.float32(1 / np.sqrt(D)), np.empty(rows, np.float32), np.empty(rows, np.float32)
    (values, value_bits), (along, along_bits) = space.rows, space.along
    for item in range(first, last):
        q, k = head_of(pairs, item, heads, 0, D // 2), head_of(pairs, item, heads, 1, D // 2)
        pack(k, True, 0, len(space.keys), space.keys)
        interleave(head_of(qkv, item, heads, 2, D), value_bits)
        out = head_of(y, item, heads, 0, D)
        for i in range(0, T, rows):
            count = min(rows, T - i)
            tops[:], sums[:] = -INFINITY, 0
            for j in range(0, i + count, KEYS):
                width = min(KEYS, i + count - j)
                score(tile, q[i:i + count], space.keys, j, width, space.scores)
                for r in range(count):
                    seen, row = max(0, min(width, i + r - j + 1)), space.scores[r, :width]
                    tops[r], sums[r] = online(row, seen, scale, tops[r], sums[r], space.sums[r])
                    _shorten(row, along_bits[r])
                product(tile, count, plain(along), values[j // 2:(j + width + 1) // 2], space.sums[:count],
                        ACCUMULATE if j > 0 else 0)
            for r in range(count):
                finish(space.sums[r], sums[r])
                lse[item // heads, item % heads, i + r] = tops[r] + np.log(sums[r])
            _round(space.sums[:count], out[i:i + count])


@jit
def _backward(tile, qkv, pairs, y, dy, dy_pairs, dqkv, lse, space, first, last):
    heads, T = lse.shape[1:]
    D, rows = y.shape[2] // heads, len(space.scores)
    scale = np.float32(1 / np.sqrt(D))
    (keys, key_bits), (queries, query_bits), (slopes_out, slope_bits) = space.rows, space.queries, space.slopes_out
    (along, along_bits), (down, down_bits), (slopes_down, slopes_down_bits) = space.along, space.down, space.slopes_down
    for item in range(first, last):
        q, k, v = (head_of(pairs, item, heads, 0, D // 2), head_of(pairs, item, heads, 1, D // 2),
                   head_of(pairs, item, heads, 2, D // 2))
        dout_pairs, dout, out = (head_of(dy_pairs, item, heads, 0, D // 2), head_of(dy, item, heads, 0, D),
                                 head_of(y, item, heads, 0, D))
        pack(k, True, 0, len(space.keys), space.keys)
        pack(v, True, 0, len(space.values), space.values)
        interleave(head_of(qkv, item, heads, 1, D), key_bits)
        space.key_sums[:], space.value_sums[:] = 0, 0
        for i in range(0, T, rows):
            count = min(rows, T - i)
            half = (count + 1) // 2
            interleave(head_of(qkv, item, heads, 0, D)[i:i + count], query_bits)
            interleave(dout[i:i + count], slope_bits)
            for j in range(0, i + count, KEYS):
                width = min(KEYS, i + count - j)
                score(tile, q[i:i + count], space.keys, j, width, space.scores)
                score(tile, dout_pairs[i:i + count], space.values, j, width, space.slopes)
                for r in range(count):
                    seen = max(0, min(width, i + r - j + 1))
                    slope(space.scores[r, :width], space.slopes[r, :width], seen, scale,
                          lse[item // heads, item % heads, i + r], dot(out[i + r], dout[i + r]))
                    _shorten(space.slopes[r, :width], along_bits[r])
                interleave(space.scores[:count, :width], down_bits)
                interleave(space.slopes[:count, :width], slopes_down_bits)
                some = slice(j, j + width)
                product(tile, width, turned(down), slopes_out[:half], space.value_sums[some], ACCUMULATE)
                product(tile, width, turned(slopes_down), queries[:half], space.key_sums[some], ACCUMULATE)
                product(tile, count, plain(along), keys[j // 2:(j + width + 1) // 2], space.sums[:count],
                        ACCUMULATE if j > 0 else 0)
            _round(space.sums[:count], head_of(dqkv, item, heads, 0, D)[i:i + count])
        _round(space.key_sums, head_of(dqkv, item, heads, 1, D))
        _round(space.value_sums, head_of(dqkv, item, heads, 2, D))
