"""Layer normalization, token by token: a row stays in L1 while its mean, its variance and its values are made."""

import numpy as np
from numba import njit

from kernels.hints import restrict
from kernels.progress import tick

jit = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
ROWS = 128  # of a sum over tokens in one go: the rounding error grows with the longest sum
ZERO, ONE = np.float32(0), np.float32(1)


@jit
def _mean(x):
    total = ZERO
    for c in range(x.size):
        total += x[c]
    return total / np.float32(x.size)


@jit
def _variance(x, mean):
    total = ZERO
    for c in range(x.size):
        total += (x[c] - mean) * (x[c] - mean)
    return total / np.float32(x.size)


@jit
def layernorm(x, gamma, beta, eps, y, means, rstds):
    """Write y and both statistics."""
    for i in range(x.shape[0]):
        row, to = x[i], restrict(y[i])
        mean = _mean(row)
        rstd = ONE / np.sqrt(_variance(row, mean) + eps)
        for c in range(row.size):
            to[c] = (row[c] - mean) * rstd * gamma[c] + beta[c]
        means[i], rstds[i] = mean, rstd
        tick(row.size // 4)


@jit
def layernorm_backward(dy, x, means, rstds, gamma, dx, sums, first, last):
    """Write dx; pieces first to last of sums (pieces,2,C) get those for dgamma and dbeta of ROWS tokens each."""
    for piece in range(first, last):
        dgamma, dbeta = restrict(sums[piece, 0]), restrict(sums[piece, 1])
        dgamma[:], dbeta[:] = ZERO, ZERO
        for i in range(piece * ROWS, min((piece + 1) * ROWS, x.shape[0])):
            _backward(dy[i], x[i], means[i], rstds[i], gamma, dgamma, dbeta, dx[i])
            tick(x.shape[1] // 2)


@jit
def _backward(dy, x, mean, rstd, gamma, dgamma, dbeta, dx):
    dx, dgamma, dbeta = restrict(dx), restrict(dgamma), restrict(dbeta)
    level, slope = ZERO, ZERO
    for c in range(x.size):
        normal = (x[c] - mean) * rstd
        dgamma[c] += dy[c] * normal
        dbeta[c] += dy[c]
        level += dy[c] * gamma[c]
        slope += dy[c] * gamma[c] * normal
    level, slope = level / np.float32(x.size), slope / np.float32(x.size)
    for c in range(x.size):
        dx[c] = rstd * (dy[c] * gamma[c] - level - (x[c] - mean) * rstd * slope)
