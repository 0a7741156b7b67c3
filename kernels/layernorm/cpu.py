"""Layer normalization, token by token: a row stays in L1 while its mean, its variance and its values are made."""

import numpy as np
from numba import njit

from kernels.hints import restrict
from kernels.progress import tick

jit = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})
# Fused, a value less itself would be what rounding took. Said outright: else Numba takes fastmath from the caller.
exact = njit(nogil=True, cache=True, error_model="numpy", fastmath=False)
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
    """Write dx, which may be dy; pieces first to last of sums (pieces,2,C) get dgamma and dbeta of ROWS tokens each."""
    block = np.empty(x.shape[1], np.float32)
    for piece in range(first, last):
        rows = range(piece * ROWS, min((piece + 1) * ROWS, x.shape[0]))
        sums[piece] = ZERO
        _backward(rows, dy, x, means, rstds, gamma, dx, sums[piece], block)


@jit
def _backward(rows, dy, x, means, rstds, gamma, dx, sums, block):
    dgamma, dbeta, block = restrict(sums[0]), restrict(sums[1]), restrict(block)
    for i in rows:
        level, slope = ZERO, ZERO
        for c in range(gamma.size):
            normal, by = (x[i, c] - means[i]) * rstds[i], dy[i, c] * gamma[c]
            dgamma[c] += dy[i, c] * normal
            dbeta[c] += dy[i, c]
            level += by
            slope += by * normal
        level, slope = level / np.float32(gamma.size), slope / np.float32(gamma.size)
        _centre(dy[i], x[i], means[i], rstds[i], gamma, level, slope, block)
        for c in range(gamma.size):
            dx[i, c] = block[c]
        tick(gamma.size // 2)


@exact
def _centre(dy, x, mean, rstd, gamma, level, slope, block):
    for c in range(gamma.size):
        block[c] = rstd * (dy[c] * gamma[c] - level - (x[c] - mean) * rstd * slope)
