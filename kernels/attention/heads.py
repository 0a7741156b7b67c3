"""What attention is made of, in float32 and bfloat16: a head's arrays, blocks of scores, and softmax row by row."""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import widen
from kernels.exponential import exp, row_max, row_sum
from kernels.micro import multiply

inner = compiled.part(fastmath={"contract"})
KEYS = 128  # of a block of scores
TILES = 4  # of queries in a block, one below the other
FLOAT = 4
ZERO, ONE, INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)


@inner
def head_of(a, item, heads, part, D):
    """(T,D): a head's queries (part 0), keys or values of a (N,T,parts * heads * D)."""
    n, h = item // heads, item % heads
    begin = (part * heads + h) * D
    return a[n, :, begin:begin + D]


@inner
def product(tile, rows, a, b, c, mode):
    """c (rows,D) = a b, or + c: a is (address, row stride, k stride), b (depth,D)."""
    D, wide = b.shape[1], tile.columns
    for d in range(0, D, wide):
        multiply(tile, rows, min(wide, D - d), len(b), a, (b[:, d:].ctypes.data, b.strides[0]),
                 (c[:, d:].ctypes.data, c.strides[0]), mode, (a[0], 0, 0))


@inner
def score(tile, q, panels, first, width, scores):
    """scores[:, :width] = q times the packed panels from key `first` on."""
    wide = tile.columns
    for j in range(0, width, wide):
        multiply(tile, len(q), min(wide, width - j), q.shape[1], (q.ctypes.data, q.strides[0], FLOAT),
                 (panels[(first + j) // wide].ctypes.data, wide * FLOAT),
                 (scores[:, j:].ctypes.data, scores.strides[0]), 0, (q.ctypes.data, 0, 0))


@inner
def plain(scores):
    """A block of scores as the left factor of a product: (address, row stride, k stride)."""
    return scores.ctypes.data, scores.strides[0], FLOAT


@inner
def turned(scores):
    """The block with rows and columns exchanged, likewise."""
    return scores.ctypes.data, FLOAT, scores.strides[0]


@inner
def online(row, seen, scale, highest, sum_so_far, out):
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


@inner
def finish(row, sum_of_all):
    """Divide a row by the sum of its exponentials."""
    scale = ONE / sum_of_all
    for d in range(row.size):
        row[d] *= scale


@compiled.part(fastmath={"reassoc", "contract"})
def dot(a, b):
    """The sum of the products of two vectors, float32 or bfloat16."""
    sum_of_all = ZERO
    for d in range(a.size):
        sum_of_all += widen(a[d]) * widen(b[d])
    return sum_of_all


@inner
def slope(scores, slopes, seen, scale, lse, inner):
    """Scores become probabilities; gradients by probabilities become those by scores."""
    scores[seen:], slopes[seen:] = ZERO, ZERO
    for c in range(seen):
        p = exp(scale * scores[c] - lse)
        scores[c] = p
        slopes[c] = scale * p * (slopes[c] - inner)
