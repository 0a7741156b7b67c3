"""The loss and its gradient, each with the reference's result in float64."""

import numpy as np

from kernels.check_target import HOST, Bound
from kernels.loss import ref, softmax, softmax_cross_entropy

BOUND = Bound()


def passes(logits, labels, target=HOST):
    """Yield (pass, result, reference)."""
    logits64 = logits.astype(np.float64)
    loss64, dlogits64 = ref.softmax_cross_entropy(logits64, labels)
    logits = target.x(logits)
    loss, dlogits = softmax_cross_entropy(logits, target.w(labels))
    yield "loss", loss, loss64
    yield "loss gradient", dlogits, dlogits64
    yield "softmax", softmax(logits), ref.softmax(logits64)


def smoothed_passes(logits, labels, smoothing=0.1, target=HOST):
    """Yield (pass, result, reference) with smoothed labels."""
    want = ref.softmax_cross_entropy(logits.astype(np.float64), labels, smoothing)
    results = softmax_cross_entropy(target.x(logits), target.w(labels), smoothing=smoothing)
    for name, got, expected in zip(("loss", "gradient"), results, want, strict=True):
        yield f"smoothed {name}", got, expected


def passes_of(case, some, target=HOST):
    """The same for a case; `some` makes an array of a shape."""
    logits, labels = some((case.N, case.C)), np.arange(case.N) % case.C
    yield from passes(logits, labels, target)
    yield from smoothed_passes(logits, labels, target=target)
