"""Momentum SGD in Numba: three streams in, two out. No fused multiply-add, so every grouping gives the same bits."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def _momentum_update(w, g, v, lr, momentum, weight_decay):
    for i in range(w.size):
        v[i] = momentum * v[i] + lr * (g[i] + weight_decay * w[i])
        w[i] -= v[i]


def momentum_update(w, g, v, lr, momentum, weight_decay):
    """In place on w and v; all arithmetic in float32."""
    _momentum_update(w, g, v, np.float32(lr), np.float32(momentum), np.float32(weight_decay))
