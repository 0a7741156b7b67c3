"""Local response normalization, written out; `share` is alpha / size."""

import numpy as np


def _window_sum(a, before, after):
    """The sum of a over the channels from c - before to c + after."""
    padded = np.pad(a, [(0, 0)] * 3 + [(before, after)])
    return sum(padded[..., i:i + a.shape[3]] for i in range(before + after + 1))


def _scale(x, size, share, k):
    return k + share * _window_sum(x**2, (size - 1) // 2, size // 2)


def lrn(x, size, share, beta, k):
    """x / s^beta; share is alpha / size."""
    return x / _scale(x, size, share, k) ** beta


def lrn_backward(dy, x, y, size, share, beta, k):
    """Each x is in the windows of the channels from c - size // 2 to c + (size-1) // 2."""
    s = _scale(x, size, share, k)
    return dy / s**beta - 2 * share * beta * x * _window_sum(dy * y / s, size // 2, (size - 1) // 2)
