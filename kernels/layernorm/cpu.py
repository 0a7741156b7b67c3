"""Layer normalization, token by token: a row stays in L1 while its mean, its variance and its values are made."""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import narrow, widen
from kernels.hints import restrict
from kernels.progress import tick
from kernels.threads import parallel_for

jit, inner = compiled.decorators(fastmath={"contract", "reassoc"})
# Fused, a value less itself would be what rounding took.
ROWS = 128  # of a sum over tokens in one go: the rounding error grows with the longest sum
ZERO, ONE = np.float32(0), np.float32(1)


@inner
def _mean(x):
    total = ZERO
    for c in range(x.size):
        total += widen(x[c])
    return total / np.float32(x.size)


@inner
def _variance(x, mean):
    total = ZERO
    for c in range(x.size):
        total += (widen(x[c]) - mean) * (widen(x[c]) - mean)
    return total / np.float32(x.size)


def layernorm(x, gamma, beta, eps, y):
    """Write y (M,C); return (mean (M,), rstd (M,))."""
    eps, (mean, rstd) = np.float32(eps), np.empty((2, len(x)), np.float32)
    parallel_for(len(x), lambda a, b: _layernorm(x[a:b], gamma, beta, eps, y[a:b], mean[a:b], rstd[a:b]))
    return mean, rstd


def layernorm_backward(dy, x, means, rstds, gamma, dx, dgamma, dbeta):
    """Write dx (M,C), which may be dy, dgamma (C,) and dbeta (C,)."""
    sums = np.empty((-(-len(x) // ROWS), 2, gamma.size), np.float32)
    given = None if dy.ctypes.data == dx.ctypes.data else dy
    parallel_for(len(sums), lambda a, b: _pieces(given, x, means, rstds, gamma, dx, sums, a, b))
    dgamma[:], dbeta[:] = sums.sum(0, dtype=np.float64)


@jit
def _layernorm(x, gamma, beta, eps, y, means, rstds):
    for i in range(x.shape[0]):
        row, to = x[i], restrict(y[i])
        mean = _mean(row)
        rstd = ONE / np.sqrt(_variance(row, mean) + eps)
        for c in range(row.size):
            to[c] = narrow((widen(row[c]) - mean) * rstd * gamma[c] + beta[c], to)
        means[i], rstds[i] = mean, rstd
        tick(row.size // 4)


@compiled.kernel(fastmath={"reassoc"})
def _pieces(dy, x, means, rstds, gamma, dx, sums, first, last):
    """Write dx; pieces first to last of sums (pieces,2,C) get those for dgamma and dbeta of ROWS tokens each.

    A dy that is dx is None: the compiler is promised that no other array is.
    """
    for piece in range(first, last):
        sums[piece] = ZERO
        rows = range(piece * ROWS, min((piece + 1) * ROWS, x.shape[0]))
        _backward(rows, dy, x, means, rstds, gamma, dx, sums[piece])


@compiled.part(fastmath={"reassoc"})
def _backward(rows, dy, x, means, rstds, gamma, dx, sums):
    dx, dgamma, dbeta, part = restrict(dx), restrict(sums[0]), restrict(sums[1]), ONE / np.float32(gamma.size)
    given = dx if dy is None else dy
    for i in rows:
        mean, rstd, level, slope = means[i], rstds[i], ZERO, ZERO
        for c in range(gamma.size):
            slope_here = widen(given[i, c])
            normal, by = (widen(x[i, c]) - mean) * rstd, slope_here * gamma[c]
            dgamma[c] += slope_here * normal
            dbeta[c] += slope_here
            level += by
            slope += by * normal
        level, slope = level * part, slope * part
        for c in range(gamma.size):
            normal = (widen(x[i, c]) - mean) * rstd
            dx[i, c] = narrow(rstd * (widen(given[i, c]) * gamma[c] - level - normal * slope), dx)
        tick(gamma.size // 2)
