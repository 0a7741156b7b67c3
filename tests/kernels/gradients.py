"""Finite differences."""

import numpy as np


def numeric_gradient(f, x, dy, eps=1e-6):
    """d(sum(f(x) * dy)) / dx by central differences, in float64."""
    x = np.array(x, np.float64)
    dx = np.empty_like(x)
    for i in np.ndindex(x.shape):
        at = x[i]
        x[i] = at + eps
        above = f(x)
        x[i] = at - eps
        dx[i] = np.sum((above - f(x)) * dy) / (2 * eps)
        x[i] = at
    return dx
