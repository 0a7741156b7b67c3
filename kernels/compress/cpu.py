"""Compression in Numba: a histogram instead of sorting, and products of rows that stay in the cache."""

import functools

import numpy as np
from numba import carray, cfunc, types
from numba.extending import intrinsic

from kernels import compiled
from kernels.progress import tick

BLOCK, BINS, UPPER, MAGNITUDE = 4096, 1 << 15, 16, 0x7FFFFFFF
LEAST, VANISHED = 1e-30, 1e-6  # norms: of a column, and of what is left of it beside those before

jit = compiled.kernel()
fast, fast_inner = compiled.decorators(fastmath={"reassoc", "contract", "nsz"})
exact = compiled.part(fastmath=False)  # else it has what its caller has; all ranks need the same bits


@jit
def _add_and_count(gradient, error, bits, counts):
    for start in range(0, error.size, BLOCK):
        end = min(start + BLOCK, error.size)
        for i in range(start, end):
            error[i] += gradient[i]
        for i in range(start, end):
            counts[(bits[i] & MAGNITUDE) >> UPPER] += 1
        tick(BLOCK)


@jit
def _take(bits, packed, last, spare):
    """Move all numbers beyond bin `last` and the first `spare` in it."""
    k, found = packed.size // 2, 0
    for start in range(0, bits.size, BLOCK):
        for i in range(start, min(start + BLOCK, bits.size)):
            where = (bits[i] & MAGNITUDE) >> UPPER
            if where >= last and (where > last or spare > 0):
                spare -= where == last
                packed[found], packed[k + found] = i, bits[i]
                bits[i] = 0
                found += 1
        tick(BLOCK)


def topk_encode(gradient, error, packed):
    """Add up and count bfloat16's magnitudes, find the bin of the k-th largest, move what is beyond."""
    bits, counts, k = error.view(np.int32), np.zeros(BINS, np.int64), packed.size // 2
    _add_and_count(gradient, error, bits, counts)
    beyond = counts[::-1].cumsum()
    place = int(np.searchsorted(beyond, k))  # of the first bin from above with which there are enough
    _take(bits, packed, BINS - 1 - place, k - (beyond[place - 1] if place else 0))


@jit
def _topk_decode(indices, values, gradient):
    gradient[:] = 0
    for p in range(indices.shape[0]):
        for i in range(indices.shape[1]):
            gradient[indices[p, i]] += values[p, i]
        tick(indices.shape[1])


def topk_decode(packed, gradient):
    """Write gradient (size,), from one row of packed after the other."""
    k = packed.shape[1] // 2
    _topk_decode(packed[:, :k], packed.view(np.float32)[:, k:], gradient)


@fast_inner
def _dot(x, y):
    total = np.float32(0)
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@fast_inner
def _add(x, factor, y):
    for i in range(x.size):
        x[i] += factor * y[i]


@exact
def _add_exactly(x, factor, y):
    for i in range(x.size):
        x[i] += factor * y[i]


@fast
def lowrank_project(gradient, error, Q, P):
    """Change gradient (n,m) and error in place, write P (n,r); row by row, so that a row stays in cache."""
    for i in range(gradient.shape[0]):
        _add(gradient[i], np.float32(1), error[i])
        error[i] = 0
        for k in range(Q.shape[0]):
            P[i, k] = _dot(gradient[i], Q[k])
        tick(Q.size)


@exact
def _inner(P, a, b):
    total = 0.0
    for i in range(P.shape[0]):
        total += np.float64(P[i, a]) * np.float64(P[i, b])
    return total


@exact
def _orthonormalize(P):
    """Modified Gram-Schmidt."""
    for k in range(P.shape[1]):
        before = np.sqrt(_inner(P, k, k))
        for other in range(k):
            share = _inner(P, other, k)
            for i in range(P.shape[0]):
                P[i, k] -= share * P[i, other]
        norm = np.sqrt(_inner(P, k, k))
        factor = 0.0 if norm < LEAST or norm < VANISHED * before else 1 / norm
        for i in range(P.shape[0]):
            P[i, k] *= factor


@fast
def _lowrank_orthonormalize(gradient, P, Q):
    """Orthonormalize P; Q = P^T gradient. No ticks: it may run inside a kernel."""
    _orthonormalize(P)
    for k in range(Q.shape[0]):
        for j in range(Q.shape[1]):
            Q[k, j] = 0
    for i in range(P.shape[0]):
        for k in range(Q.shape[0]):
            _add(Q[k], P[i, k], gradient[i])


def lowrank_orthonormalize(gradient, P, Q):
    """Change P (n,r) in place, write Q (r,m)."""
    _lowrank_orthonormalize(gradient, P, Q)


@intrinsic
def _pointer(typing, address):
    """To the float32 at an address."""
    kind = types.CPointer(types.float32)
    return kind(types.int64), lambda context, builder, signature, values: builder.inttoptr(
        values[0], context.get_value_type(kind))


@functools.cache
def orthonormalize_function():
    """lowrank_orthonormalize as a C function of a table of addresses and sizes."""
    @cfunc(types.void(types.CPointer(types.int64), types.int64), cache=True)
    def orthonormalize(table, rows):
        words = carray(table, (rows, 6))
        for row in range(rows):
            n, m, r = words[row, 1], words[row, 2], words[row, 5]
            _lowrank_orthonormalize(carray(_pointer(words[row, 0]), (n, m)), carray(_pointer(words[row, 3]), (n, r)),
                                    carray(_pointer(words[row, 4]), (r, m)))

    return orthonormalize


@fast
def lowrank_expand(gradient, error, P, Q, share):
    """Change gradient (n,m) and error in place; row by row."""
    share = np.float32(share)
    for i in range(gradient.shape[0]):
        _add(error[i], np.float32(1), gradient[i])
        gradient[i] = 0
        for k in range(Q.shape[0]):
            _add_exactly(gradient[i], P[i, k], Q[k])
        _add(error[i], -share, gradient[i])
        tick(Q.size)
