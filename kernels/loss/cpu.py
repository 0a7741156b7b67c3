"""Softmax and cross entropy, a row at a time."""

import numpy as np
from numba import njit

jit = njit(nogil=True, cache=True, error_model="numpy")


@jit
def _softmax(x, y):
    """Write a row's softmax to y; return (peak, sum of exp(x - peak)). A NaN is no peak, but in the sum."""
    peak = np.float32(-np.inf)
    for c in range(x.size):
        peak = x[c] if x[c] > peak else peak
    total = 0.0
    for c in range(x.size):
        y[c] = np.exp(x[c] - peak)
        total += y[c]
    scale = np.float32(1 / total)
    for c in range(x.size):
        y[c] *= scale
    return peak, total


@jit
def softmax(logits, y):
    """Write the probabilities to y."""
    for n in range(logits.shape[0]):
        _softmax(logits[n], y[n])


@jit
def softmax_cross_entropy(logits, labels, loss, dlogits):
    """Write -log softmax at the label and softmax - onehot."""
    for n in range(logits.shape[0]):
        peak, total = _softmax(logits[n], dlogits[n])
        dlogits[n, labels[n]] -= np.float32(1)
        loss[n] = np.log(total) - (logits[n, labels[n]] - peak)
