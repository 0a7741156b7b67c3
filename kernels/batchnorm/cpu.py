"""Batch normalization of rows (M,C): one pass for the statistics, one to normalize, two back.

Loops run along the channels. Few of them would be short loops, so as many rows as fill WIDE floats count as one.
"""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import convert_rows, narrow, widen
from kernels.hints import restrict
from kernels.progress import tick
from kernels.threads import parallel_for

jit = compiled.kernel(fastmath={"contract"})
WIDE = 256
ROWS = 128  # of a sum in one go: the rounding error grows with the longest sum
SAMPLE = 64  # rows whose mean stands for the mean while squares are summed: else their sums cancel
ZERO, FEW_BITS = np.float32(0), np.uint32(0xFFF00000)


def _widened(C, rows, channels):
    """(rows, channel vectors) with several rows as one; what remains follows as a second part."""
    M, fold = len(rows[0]), max(1, WIDE // C)
    whole = M // fold * fold
    for begin, end, times in ((0, whole, fold), (whole, M, 1)):
        if end > begin:
            yield [r if r is None else r[begin:end].reshape(-1, times * C) for r in rows], \
                  [np.tile(c, times) for c in channels]


def _summed(function, C, rows, channels):
    """The two sums (C,) in float64 that a kernel makes of pieces of rows."""
    total = np.zeros((2, C))
    for part, constants in _widened(C, rows, channels):
        x = part[-1]
        sums = np.empty((-(-len(x) // ROWS), 2, x.shape[1]), np.float32)
        parallel_for(len(sums), lambda a, b: function(*part, *constants, sums, a, b))  # noqa: B023
        total += sums.sum(0, dtype=np.float64).reshape(2, -1, C).sum(1)
    return total


def _shift(x):
    """The means of a few rows; of bfloat16 with so few bits that differences need no rounding, for all would be alike.
    """
    if x.dtype == np.float32:
        return x.mean(0, dtype=np.float64).astype(np.float32)
    wide = np.empty(x.shape, np.float32)
    convert_rows(x, wide)
    return (wide.mean(0).view(np.uint32) & FEW_BITS).view(np.float32)


def statistics(x):
    """(mean (C,), var (C,)) float32 of x (M,C)."""
    M, C = x.shape
    shift = _shift(x[::-(-M // SAMPLE)])
    square, one = _summed(_moments, C, [x], [shift]) / M
    return np.float32(shift + one), np.float32(np.maximum(square - one * one, 0))


def _rstd(var, eps):
    return 1 / np.sqrt(var.astype(np.float64) + eps)


def running(state, mean, var, count, momentum):
    """Change the state to that after one more batch."""
    state[0] += 1
    rate, unbiased = max(momentum, 1 / state[0]), var.astype(np.float64) * count / max(1, count - 1)
    state[1:] += rate * (np.concatenate([mean, unbiased]) - state[1:])


def normalize(x, mean, var, gamma, beta, eps, add, relu, y):
    """Write y (M,C) = gamma * (x - mean) / sqrt(var + eps) + beta + add, clipped at zero if `relu`."""
    floor, scale = ZERO if relu else np.float32(-np.inf), np.float32(gamma * _rstd(var, eps))
    for part, constants in _widened(len(mean), [x, add, y], [mean, scale, beta]):
        parallel_for(len(part[0]), lambda a, b: _normalize(*part, *constants, floor, a, b))  # noqa: B023


def wgrad(dy, y, x, mean, var, eps, dgamma, dbeta):
    """Write dgamma and dbeta (C,); where y is 0, set dy to 0 first."""
    product, total = _summed(_gradients, len(mean), [dy, y, x], [mean])
    dgamma[:], dbeta[:] = product * _rstd(var, eps), total


def dgrad(dy, x, mean, var, gamma, dgamma, dbeta, eps, count, dx):
    """Write dx (M,C) = scale * dy + slope * (x - mean) + shift."""
    rstd = _rstd(var, eps)
    scale = gamma * rstd
    factors = map(np.float32, (scale, -scale * rstd * dgamma / count, -scale * dbeta / count))
    for part, constants in _widened(len(mean), [dy, x, dx], [mean, *factors]):
        parallel_for(len(part[0]), lambda a, b: _dgrad(*part, *constants, a, b))  # noqa: B023


@jit
def _moments(x, shift, sums, first, last):
    """Pieces first to last of sums (pieces,2,C): of (x - shift)^2 and of x - shift, over ROWS rows each."""
    for piece in range(first, last):
        square, one = restrict(sums[piece, 0]), restrict(sums[piece, 1])
        square[:], one[:] = ZERO, ZERO
        for i in range(piece * ROWS, min((piece + 1) * ROWS, len(x))):
            for c in range(x.shape[1]):
                off = widen(x[i, c]) - shift[c]
                square[c] += off * off
                one[c] += off
            tick(x.shape[1] // 8)


@jit
def _gradients(dy, y, x, mean, sums, first, last):
    """Pieces of sums of dy * (x - mean) and of dy."""
    for piece in range(first, last):
        product, one = restrict(sums[piece, 0]), restrict(sums[piece, 1])
        product[:], one[:] = ZERO, ZERO
        for i in range(piece * ROWS, min((piece + 1) * ROWS, len(x))):
            if y is not None:
                masked = restrict(dy[i])
                for c in range(x.shape[1]):
                    masked[c] = narrow(widen(masked[c]) if widen(y[i, c]) > ZERO else ZERO, masked)
            for c in range(x.shape[1]):
                product[c] += widen(dy[i, c]) * (widen(x[i, c]) - mean[c])
                one[c] += widen(dy[i, c])
            tick(x.shape[1] // 4)


@jit
def _normalize(x, add, y, mean, scale, beta, floor, first, last):
    for i in range(first, last):
        row = restrict(y[i])
        for c in range(x.shape[1]):
            value = (widen(x[i, c]) - mean[c]) * scale[c] + beta[c]
            if add is not None:
                value += widen(add[i, c])
            row[c] = narrow(floor if value < floor else value, row)
        tick(x.shape[1] // 4)


@jit
def _dgrad(dy, x, dx, mean, scale, slope, shift, first, last):
    for i in range(first, last):
        row = restrict(dx[i])
        for c in range(x.shape[1]):
            row[c] = narrow(scale[c] * widen(dy[i, c]) + (slope[c] * (widen(x[i, c]) - mean[c]) + shift[c]), row)
        tick(x.shape[1] // 4)
