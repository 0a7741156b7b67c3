"""Softmax and cross entropy, written out."""

import numpy as np


def softmax(logits):
    """Exponentials over their sum; taking the maximum off first keeps them in range and changes nothing."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def softmax_cross_entropy(logits, labels, smoothing=0.0):
    """(loss, dlogits) for a target that is smoothing / C everywhere, and the rest at the label."""
    C = logits.shape[1]
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(C)[labels] + smoothing / C
    return -(target * logs).sum(1), softmax(logits) - target
