"""Classification loss.

    logits (N,C) float32 or bfloat16   labels (N,) of any integer dtype, each in [0, C)   loss (N,) float32

Probabilities and gradients are as the logits. Nobody waits for the GPU to look at its labels: there one that is no
class makes its sample's loss and gradient NaN. Every function raises ValueError, naming the operation and the shapes,
for anything that does not fit.
"""

import numpy as np

from kernels.arguments import ACTIVATION, implementation, is_array, output, require, tensor, two_outputs


def _labels(operation, labels, logits):
    """The labels as int64, those of this computer all classes of the logits."""
    N, C = logits.shape
    integers = is_array(labels) and labels.dtype.kind in "iu" and labels.shape == (N,)
    require(integers, operation, "labels must be ({}) integers for logits {}, got {} {}", N, logits, labels,
            getattr(labels, "dtype", type(labels).__name__))
    wrong = np.flatnonzero((labels < 0) | (labels >= C)) if isinstance(labels, np.ndarray) else ()
    if len(wrong):
        first = wrong[0]
        require(False, operation, "labels[{}] = {} is not a class of logits {}", first, labels[first], logits)
    return tensor(operation, "labels", labels.astype(np.int64, copy=False), "N", np.int64)


def softmax(logits, out=None):
    """The probabilities (N,C), each row's exponentials over their sum; into `out` if given, apart from the logits.

    They have the dtype of logits (N,C), float32 or bfloat16. Raises ValueError for anything that does not
    fit.
    """
    logits = tensor("softmax", "logits", logits, "NC", ACTIVATION)
    kernel = implementation(__name__, "softmax", logits)
    y = output("softmax", out, logits.shape, logits.dtype, like=logits, apart=[logits])
    kernel.softmax(logits, y)
    return y


def softmax_cross_entropy(logits, labels, out=None, *, smoothing=0.0):
    """(loss (N,) float32, dlogits (N,C)): each sample's -log softmax(logits)[label] and gradient softmax - onehot.

    With `smoothing` s in [0,1) the target is (1 - s) onehot + s / C (Szegedy et al. 2016, label smoothing). Neither is
    divided by N. A NaN, or an infinity that leaves the softmax undefined, makes the loss NaN. Into the pair `out` if
    given, apart from the logits. Raises ValueError for anything that does not fit, and on the CPU for a label outside
    [0, C).
    """
    logits = tensor("softmax_cross_entropy", "logits", logits, "NC", ACTIVATION)
    labels = _labels("softmax_cross_entropy", labels, logits)
    kernel = implementation(__name__, "softmax_cross_entropy", logits, labels)
    require(0 <= smoothing < 1, "softmax_cross_entropy", "smoothing must be in [0, 1), got {!r}", smoothing)
    loss, dlogits = two_outputs("softmax_cross_entropy", out)
    loss = output("softmax_cross_entropy", loss, logits.shape[:1], like=logits, apart=[logits])
    dlogits = output("softmax_cross_entropy", dlogits, logits.shape, logits.dtype, like=logits, apart=[logits, loss])
    kernel.softmax_cross_entropy(logits, labels, np.float32(smoothing), loss, dlogits)
    return loss, dlogits
