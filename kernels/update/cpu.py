"""Updates in Numba, one pass over memory. No fused multiply-add, so every grouping gives the same bits."""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import bits, nearest, widen
from kernels.progress import tick
from kernels.threads import parallel_for

BLOCK, ROW = 4096, 64
ONE = np.float32(1)
NONE = np.zeros(0, np.uint16)

jit, inner = compiled.decorators()


@inner
def _momentum_block(w, g, v, rounded, lr, momentum, weight_decay, scale, old, new):
    keep = rounded.size > 0
    for i in range(w.size):
        step = lr * (scale * widen(g[i]) + weight_decay * w[i])
        v[i] = momentum * v[i] + step
        w[i] -= old * v[i] + new * step
        if keep:
            rounded[i] = nearest(w[i])


@jit
def _momentum_update(w, g, v, rounded, constants):
    for start in range(0, w.size, BLOCK):
        end = start + BLOCK
        _momentum_block(w[start:end], g[start:end], v[start:end], rounded[start:end], *constants)
        tick(BLOCK)


def momentum_update(w, g, v, rounded, *constants):
    """Change w and v (size,) in place, and write `rounded` unless it is None."""
    rounded = NONE if rounded is None else bits(rounded)
    parallel_for(w.size, lambda a, b: _momentum_update(w[a:b], g[a:b], v[a:b], rounded[a:b], constants))


@inner
def _adamw_block(w, g, m, v, rounded, rate, decay, beta1, beta2, eps, scale, old, new):
    keep = rounded.size > 0
    for i in range(w.size):
        gradient = scale * widen(g[i])
        m[i] = beta1 * m[i] + (ONE - beta1) * gradient
        v[i] = beta2 * v[i] + (ONE - beta2) * (gradient * gradient)
        w[i] -= rate * (old * m[i] + new * gradient) / (np.sqrt(v[i]) + eps) + decay * w[i]
        if keep:
            rounded[i] = nearest(w[i])


@jit
def _adamw_update(w, g, m, v, rounded, constants):
    for start in range(0, w.size, BLOCK):
        end = start + BLOCK
        _adamw_block(w[start:end], g[start:end], m[start:end], v[start:end], rounded[start:end], *constants)
        tick(BLOCK)


def adamw_update(w, g, m, v, rounded, *constants):
    """Change w, m and v (size,) in place, and write `rounded` unless it is None."""
    rounded = NONE if rounded is None else bits(rounded)
    parallel_for(w.size, lambda a, b: _adamw_update(w[a:b], g[a:b], m[a:b], v[a:b], rounded[a:b], constants))


@jit
def _compensate(g, w, then, factor):
    for i in range(g.size):
        g[i] += factor * g[i] * g[i] * (w[i] - then[i])


def compensate_delay(g, w, then, factor):
    """Change g (size,) in place."""
    parallel_for(g.size, lambda a, b: _compensate(g[a:b], w[a:b], then[a:b], factor))


@inner
def _extrapolate_block(w, new, rounded, factor):
    keep = rounded.size > 0
    for i in range(w.size):
        w[i] = new[i] + factor * (new[i] - w[i])
        if keep:
            rounded[i] = nearest(w[i])


@jit
def _extrapolate(w, new, rounded, factor):
    for start in range(0, w.size, BLOCK):
        end = start + BLOCK
        _extrapolate_block(w[start:end], new[start:end], rounded[start:end], factor)
        tick(BLOCK)


def extrapolate(w, new, rounded, factor):
    """Change w (size,) in place, and write `rounded` unless it is None."""
    rounded = NONE if rounded is None else bits(rounded)
    parallel_for(w.size, lambda a, b: _extrapolate(w[a:b], new[a:b], rounded[a:b], factor))


@inner
def _add_squares(x, totals):
    for i in range(x.size):
        value = np.float64(widen(x[i]))
        totals[i] += value * value


@jit
def _squares(x, sums, first, last):
    """The sum of squares of each block first to last, in double precision: of every ROW-th number, then of these."""
    totals = np.empty(ROW)
    for block in range(first, last):
        part, totals[:] = x[block * BLOCK:(block + 1) * BLOCK], 0.0
        for start in range(0, part.size, ROW):
            _add_squares(part[start:start + ROW], totals)
        sums[block] = 0.0
        for i in range(ROW):
            sums[block] += totals[i]
        tick(BLOCK)


def sum_of_squares(x):
    """A float, the same bits on all processors and in any number of threads: all ranks clip by it."""
    sums = np.empty(-(-x.size // BLOCK))
    parallel_for(len(sums), lambda first, last: _squares(x, sums, first, last))
    return float(sums.sum())
