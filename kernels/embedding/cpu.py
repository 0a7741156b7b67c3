"""Embedding: rows copied one way; back, rows summed that belong together, found by counting."""

import numpy as np
from numba import njit

from kernels.hints import restrict
from kernels.progress import tick
from kernels.threads import share

jit = njit(nogil=True, cache=True, error_model="numpy")
TERMS = 256  # of a sum in one go: the rounding error grows with the longest sum
ZERO = np.float32(0)


@jit
def embedding(tokens, table, positions, y):
    """Write to y."""
    N, T, C = y.shape
    for n in range(N):
        for t in range(T):
            source, to = table[tokens[n, t]], restrict(y[n, t])
            for c in range(C):
                to[c] = source[c]
            if positions is not None:
                for c in range(C):
                    to[c] += positions[t, c]
        tick(T * C // 8)


@jit
def _grouped(keys, rows):
    """(order, begin): the places of key k are order[begin[k]:begin[k + 1]], increasing."""
    begin, order = np.zeros(rows + 1, np.intp), np.empty(keys.size, np.intp)
    for key in keys:
        begin[key + 1] += 1
    for row in range(rows):
        begin[row + 1] += begin[row]
    following = begin.copy()
    for place in range(keys.size):
        order[following[keys[place]]] = place
        following[keys[place]] += 1
    return order, begin


@jit
def _sum(dy, order, begin, sums, first, last):
    """Rows first to last of sums: those of dy (places,C) that each key has."""
    part = restrict(np.empty(dy.shape[1], np.float32))
    for key in range(first, last):
        row = restrict(sums[key])
        row[:] = ZERO
        for start in range(begin[key], begin[key + 1], TERMS):
            part[:] = ZERO
            for i in range(start, min(start + TERMS, begin[key + 1])):
                source = dy[order[i]]
                for c in range(row.size):
                    part[c] += source[c]
            for c in range(row.size):
                row[c] += part[c]
        tick(row.size * (1 + begin[key + 1] - begin[key]) // 8)


def sum_by(keys, dy, sums):
    """sums[k] = the sum of all rows of dy (...,C) whose key is k."""
    order, begin = _grouped(keys, len(sums))
    rows = dy.reshape(-1, dy.shape[-1])
    share(len(sums), lambda first, last: _sum(rows, order, begin, sums, first, last))
