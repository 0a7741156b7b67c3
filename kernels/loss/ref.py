"""Softmax and cross entropy, written out."""

import numpy as np


def softmax(logits):
    """Exponentials over their sum; taking the maximum off first keeps them in range and changes nothing."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def softmax_cross_entropy(logits, labels):
    """(loss, dlogits)."""
    samples = np.arange(len(logits))
    shifted = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - shifted[samples, labels]
    dlogits = softmax(logits)
    dlogits[samples, labels] -= 1
    return loss, dlogits
