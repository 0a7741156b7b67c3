"""The loss and its gradient, each with the reference's result in float64."""

import numpy as np

from kernels.loss import ref, softmax, softmax_cross_entropy


def passes(logits, labels):
    """Yield (pass, result, reference)."""
    logits64 = logits.astype(np.float64)
    loss, dlogits = softmax_cross_entropy(logits, labels)
    loss64, dlogits64 = ref.softmax_cross_entropy(logits64, labels)
    yield "loss", loss, loss64
    yield "loss gradient", dlogits, dlogits64
    loss, dlogits = softmax_cross_entropy(logits, labels, smoothing=0.1)
    loss64, dlogits64 = ref.softmax_cross_entropy(logits64, labels, float(np.float32(0.1)))
    yield "smoothed loss", loss, loss64
    yield "smoothed gradient", dlogits, dlogits64
    yield "softmax", softmax(logits), ref.softmax(logits64)


def passes_of(case, some):
    """The same for a case; `some` makes an array of a shape."""
    return passes(some((case.N, case.C)), np.arange(case.N) % case.C)
