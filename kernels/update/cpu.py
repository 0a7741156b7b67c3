"""Momentum SGD in Numba: three streams in, two out. No fused multiply-add, so every grouping gives the same bits."""

import numpy as np
from numba import njit

from kernels.progress import tick
from kernels.threads import share

BLOCK = 4096


@njit(nogil=True, cache=True)
def _block(w, g, v, lr, momentum, weight_decay):
    for i in range(w.size):
        v[i] = momentum * v[i] + lr * (g[i] + weight_decay * w[i])
        w[i] -= v[i]


@njit(nogil=True, cache=True)
def _momentum_update(w, g, v, lr, momentum, weight_decay):
    for start in range(0, w.size, BLOCK):
        end = start + BLOCK
        _block(w[start:end], g[start:end], v[start:end], lr, momentum, weight_decay)
        tick(BLOCK)


def momentum_update(w, g, v, lr, momentum, weight_decay):
    """In place on w and v; all arithmetic in float32."""
    constants = np.float32(lr), np.float32(momentum), np.float32(weight_decay)
    share(w.size, lambda a, b: _momentum_update(w[a:b], g[a:b], v[a:b], *constants))
