"""Softmax and cross entropy, a row at a time; everything but the logarithm of a row's sum is vector code."""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import rounded, widened
from kernels.exponential import exp, row_max, row_sum
from kernels.progress import tick
from kernels.threads import parallel_for

jit, inner = compiled.decorators(fastmath={"contract"})
ONE = np.float32(1)


@inner
def _softmax(x, y):
    """Write a row's softmax to y; return (peak, sum of exp(x - peak))."""
    top = row_max(x)
    for c in range(x.size):
        y[c] = exp(x[c] - top)
    everything = row_sum(y)
    scale = ONE / everything
    for c in range(x.size):
        y[c] *= scale
    return top, everything


@jit
def _softmax_rows(logits, y):
    for n in range(logits.shape[0]):
        _softmax(logits[n], y[n])
        tick(y.shape[1])


def softmax(logits, y):
    """Write the probabilities y (N,C)."""
    if y.dtype == np.uint16:
        rounded(lambda target: softmax(widened("logits", logits), target), y)
        return
    parallel_for(len(y), lambda a, b: _softmax_rows(logits[a:b], y[a:b]))


@jit
def _cross_entropy_rows(logits, labels, smoothing, loss, dlogits):
    """Write -log softmax at the label, in part the mean over all classes, and softmax less that target."""
    C = logits.shape[1]
    for n in range(logits.shape[0]):
        top, everything = _softmax(logits[n], dlogits[n])
        at = logits[n, labels[n]] - top
        if smoothing > 0:
            at += smoothing * (row_sum(logits[n]) / C - logits[n, labels[n]])
            for c in range(C):
                dlogits[n, c] -= smoothing / C
        dlogits[n, labels[n]] -= ONE - smoothing
        loss[n] = np.log(np.float64(everything)) - at
        tick(C)


def softmax_cross_entropy(logits, labels, smoothing, loss, dlogits):
    """Write loss (N,) and dlogits (N,C)."""
    if dlogits.dtype == np.uint16:
        wide = widened("logits", logits)
        rounded(lambda target: softmax_cross_entropy(wide, labels, smoothing, loss, target), dlogits)
        return
    arrays = logits, labels, loss, dlogits

    def work(a, b):
        logits, labels, loss, dlogits = (array[a:b] for array in arrays)
        _cross_entropy_rows(logits, labels, smoothing, loss, dlogits)

    parallel_for(len(loss), work)
