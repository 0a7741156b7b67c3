"""Embedding: rows copied one way; back, rows summed that belong together, found by counting."""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import bits, narrow, widen
from kernels.hints import restrict
from kernels.progress import tick
from kernels.threads import parallel_for

jit, inner = compiled.decorators()
TERMS = 256  # of a sum in one go: the rounding error grows with the longest sum
RUN = 4096  # floats zeroed in one go at most
ZERO = np.float32(0)


def embedding(tokens, table, positions, y):
    """Write y (N,T,C)."""
    y = bits(y)  # all else is float32
    parallel_for(len(y), lambda a, b: _embedding(tokens[a:b], table, positions, y[a:b]))


def embedding_backward(dy, tokens, dtable, dpositions):
    """Write the sums dtable (V,C) and, unless it is None, dpositions."""
    _sum_by(tokens.reshape(-1), dy, dtable)
    if dpositions is not None:
        _sum_by(np.tile(np.arange(tokens.shape[1]), len(tokens)), dy, dpositions)


@jit
def _embedding(tokens, table, positions, y):
    N, T, C = y.shape
    for n in range(N):
        for t in range(T):
            source, to = table[tokens[n, t]], restrict(y[n, t])
            for c in range(C):
                value = source[c]
                if positions is not None:
                    value += positions[t, c]
                to[c] = narrow(value, to)
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
    """Rows first to last of sums: those of dy (places,C) that each key has. Runs of rows that have none are one."""
    part = restrict(np.empty(dy.shape[1], np.float32))
    following, longest = first, max(1, RUN // dy.shape[1])
    for key in range(first, last):
        absent = begin[key] == begin[key + 1]
        if absent and key + 1 < last and key + 1 - following < longest:
            continue
        _zero(sums[following:key + 1].reshape(-1))
        if not absent:
            _add(dy, order[begin[key]:begin[key + 1]], part, sums[key])
        tick(dy.shape[1] * (key - following + 1 + begin[key + 1] - begin[key]) // 8)
        following = key + 1


@inner
def _zero(flat):
    for i in range(flat.size):
        flat[i] = ZERO


@inner
def _add(dy, places, part, row):
    row = restrict(row)
    for start in range(0, places.size, TERMS):
        part[:] = ZERO
        for i in range(start, min(start + TERMS, places.size)):
            source = dy[places[i]]
            for c in range(row.size):
                part[c] += widen(source[c])
        for c in range(row.size):
            row[c] += part[c]


def _sum_by(keys, dy, sums):
    """sums[k] = the sum of all rows of dy (...,C) whose key is k."""
    order, begin = _grouped(keys, len(sums))
    rows = dy.reshape(-1, dy.shape[-1])
    parallel_for(len(sums), lambda first, last: _sum(rows, order, begin, sums, first, last))
