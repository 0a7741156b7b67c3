"""Rectifier and dropout, on float32 arrays of any shape.

Every function raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels.activation import cpu
from kernels.arguments import array, output, require, two_outputs


def _gradient(operation, dy, name, saved, dtype=np.float32):
    """dy and the array `name` saved by the forward pass, of the same shape."""
    dy, saved = array(operation, "dy", dy), array(operation, name, saved, dtype)
    require(dy.shape == saved.shape, operation, "dy {} and {} {} must agree", dy, name, saved)
    return dy, saved


def _uint64(name, value):
    good = isinstance(value, int | np.integer) and 0 <= value < 2**64
    require(good, "dropout", "{} must be an int in [0, 2^64), got {!r}", name, value)
    return np.uint64(value)


def _scale(operation, rate):
    require(0 <= rate < 1, operation, "rate must be at least 0 and less than 1, got {!r}", rate)
    return np.float32(1 / (1 - rate))


def relu(x, out=None):
    """max(x, 0), NaN where x is; into `out` if given, which may be x itself."""
    x = array("relu", "x", x)
    y = output("relu", out, x.shape)
    cpu.relu(x.reshape(-1), y.reshape(-1))
    return y


def relu_backward(dy, y, out=None):
    """Gradient by the input: dy where y > 0, else 0; into `out` if given, which may be dy itself."""
    dy, y = _gradient("relu_backward", dy, "y", y)
    dx = output("relu_backward", out, y.shape)
    cpu.relu_backward(dy.reshape(-1), y.reshape(-1), dx.reshape(-1))
    return dx


def dropout(x, rate, *, seed, first=0, out=None):
    """(y, mask): y = x * mask / (1 - rate), mask uint8, 0 with probability `rate` (Srivastava et al. 2014).

    The mask of element i of the flattened x depends on `seed` and `first` + i alone (ints in [0, 2^64), added
    modulo 2^64): a batch cut into parts gets the mask it has whole if `first` counts the elements before.
    ref.uniform spells out the random numbers, a SplitMix64 stream (Steele, Lea and Flood 2014).
    Into the pair `out` if given, whose first may be x itself.
    """
    x, scale = array("dropout", "x", x), _scale("dropout", rate)
    seed, first, threshold = _uint64("seed", seed), _uint64("first", first), np.uint64(round(rate * 2**32))
    y, mask = two_outputs("dropout", out)
    y, mask = output("dropout", y, x.shape), output("dropout", mask, x.shape, np.uint8, apart=[x])
    cpu.dropout(x.reshape(-1), threshold, scale, seed, first, y.reshape(-1), mask.reshape(-1))
    return y, mask


def dropout_backward(dy, mask, rate, out=None):
    """Gradient by the input: dy * mask / (1 - rate); into `out` if given, which may be dy itself."""
    dy, mask = _gradient("dropout_backward", dy, "mask", mask, np.uint8)
    scale, dx = _scale("dropout_backward", rate), output("dropout_backward", out, dy.shape, apart=[mask])
    cpu.dropout_backward(dy.reshape(-1), mask.reshape(-1), scale, dx.reshape(-1))
    return dx
