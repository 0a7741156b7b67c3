"""Classification loss.

    logits (N,C) float32   labels (N,) of any integer dtype, each in [0, C)

Every function raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels.arguments import output, require, tensor, two_outputs
from kernels.loss import cpu
from kernels.threads import share


def _labels(operation, labels, logits):
    """The labels as int64, all of them classes of the logits."""
    N, C = logits.shape
    integers = isinstance(labels, np.ndarray) and labels.dtype.kind in "iu" and labels.shape == (N,)
    require(integers, operation, "labels must be ({}) integers for logits {}, got {} {}", N, logits, labels,
            getattr(labels, "dtype", type(labels).__name__))
    wrong = np.flatnonzero((labels < 0) | (labels >= C))
    if wrong.size:
        first = wrong[0]
        require(False, operation, "labels[{}] = {} is not a class of logits {}", first, labels[first], logits)
    return labels.astype(np.int64)


def softmax(logits, out=None):
    """The probabilities (N,C), each row's exponentials over their sum; into `out` if given, apart from the logits."""
    logits = tensor("softmax", "logits", logits, "NC")
    y = output("softmax", out, logits.shape, apart=[logits])
    share(len(y), lambda a, b: cpu.softmax(logits[a:b], y[a:b]))
    return y


def softmax_cross_entropy(logits, labels, out=None, *, smoothing=0.0):
    """(loss (N,), dlogits (N,C)): each sample's -log softmax(logits)[label] and gradient softmax - onehot.

    With `smoothing` s in [0,1) the target is (1 - s) onehot + s / C (Szegedy et al. 2016, label smoothing). Neither is
    divided by N. A NaN, or an infinity that leaves the softmax undefined, makes the loss NaN.
    Into the pair `out` if given, apart from the logits.
    """
    logits = tensor("softmax_cross_entropy", "logits", logits, "NC")
    labels = _labels("softmax_cross_entropy", labels, logits)
    require(0 <= smoothing < 1, "softmax_cross_entropy", "smoothing must be in [0, 1), got {!r}", smoothing)
    loss, dlogits = two_outputs("softmax_cross_entropy", out)
    loss = output("softmax_cross_entropy", loss, logits.shape[:1], apart=[logits])
    dlogits = output("softmax_cross_entropy", dlogits, logits.shape, apart=[logits, loss])
    share(len(loss), lambda a, b: cpu.softmax_cross_entropy(logits[a:b], labels[a:b], np.float32(smoothing), loss[a:b],
                                                            dlogits[a:b]))
    return loss, dlogits
