"""The update rules in NumPy, in whatever precision they are given: the oracle."""

import numpy as np


def momentum_update(w, g, v, lr, momentum, weight_decay, scale=1, late=0):
    """New (w, v); a late step is followed by the moves that its momentum would have made since."""
    u = lr * (scale * g + weight_decay * w)
    v = momentum * v + u
    return w - momentum**late * v - sum(momentum**i for i in range(late)) * u, v


def compensate_delay(g, w, then, factor):
    """g + factor g^2 (w - then)."""
    return g + factor * g**2 * (w - then)


def extrapolate(w, new, factor):
    """new + factor (new - w)."""
    return new + factor * (new - w)


def adamw_update(w, g, m, v, lr, beta1, beta2, eps, weight_decay, step, scale=1, late=0):
    """New (w, m, v)."""
    g = scale * g
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    moved = beta1**late * m + (1 - beta1) * sum(beta1**i for i in range(late)) * g
    return w - lr * (moved / (1 - beta1**step) / (np.sqrt(v / (1 - beta2**step)) + eps) + weight_decay * w), m, v
