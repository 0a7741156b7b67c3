"""Layer normalization, written out, in whatever precision it is given."""

import numpy as np


def _normal(x, eps):
    """(normalized x, mean, rstd)."""
    mean, rstd = x.mean(1), 1 / np.sqrt(x.var(1) + eps)
    return (x - mean[:, None]) * rstd[:, None], mean, rstd


def layernorm(x, gamma, beta, eps):
    """(y, mean, rstd)."""
    normal, mean, rstd = _normal(x, eps)
    return gamma * normal + beta, mean, rstd


def layernorm_backward(dy, x, gamma, eps):
    """(dx, dgamma, dbeta): through x - mean, the variance and the mean."""
    (normal, _, rstd), by_normal = _normal(x, eps), dy * gamma
    centred = by_normal - by_normal.mean(1, keepdims=True) - normal * (by_normal * normal).mean(1, keepdims=True)
    return centred * rstd[:, None], (dy * normal).sum(0), dy.sum(0)
