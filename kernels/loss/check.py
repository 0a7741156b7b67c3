"""The loss and its gradient, each with the reference's result in float64."""

import numpy as np

from kernels.loss import ref, softmax, softmax_cross_entropy
from kernels.places import HOST


def passes(logits, labels, place=HOST):
    """Yield (pass, result, reference)."""
    logits64 = logits.astype(np.float64)
    loss64, dlogits64 = ref.softmax_cross_entropy(logits64, labels)
    logits = place.x(logits)
    loss, dlogits = softmax_cross_entropy(logits, place.w(labels))
    yield "loss", loss, loss64
    yield "loss gradient", dlogits, dlogits64
    yield "softmax", softmax(logits), ref.softmax(logits64)


def smoothed_passes(logits, labels, smoothing=0.1, place=HOST):
    """The same with smoothed labels."""
    want = ref.softmax_cross_entropy(logits.astype(np.float64), labels, smoothing)
    results = softmax_cross_entropy(place.x(logits), place.w(labels), smoothing=smoothing)
    for name, got, expected in zip(("loss", "gradient"), results, want, strict=True):
        yield f"smoothed {name}", got, expected


def passes_of(case, some, place=HOST):
    """The same for a case; `some` makes an array of a shape."""
    logits, labels = some((case.N, case.C)), np.arange(case.N) % case.C
    yield from passes(logits, labels, place)
    yield from smoothed_passes(logits, labels, place=place)
