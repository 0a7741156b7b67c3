"""Rectifiers and dropout, on float32 arrays of any shape.

Every function raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels.activation import cpu
from kernels.arguments import array, output, require, two_outputs
from kernels.threads import share


def _gradient(operation, dy, name, saved, dtype=np.float32):
    """dy and the array `name` saved by the forward pass, of the same shape."""
    dy, saved = array(operation, "dy", dy), array(operation, name, saved, dtype)
    require(dy.shape == saved.shape, operation, "dy {} and {} {} must agree", dy, name, saved)
    return dy, saved


def _each(operation, kernel, x, out):
    """kernel(part of x, part of y) for every part; y."""
    x = array(operation, "x", x)
    y = output(operation, out, x.shape)
    flat, into = x.reshape(-1), y.reshape(-1)
    share(x.size, lambda a, b: kernel(flat[a:b], into[a:b]))
    return y


def _each_backward(operation, kernel, dy, name, saved, out):
    """kernel(part of dy, of what was saved, of dx) for every part; dx."""
    dy, saved = _gradient(operation, dy, name, saved)
    dx = output(operation, out, dy.shape)
    flat = dy.reshape(-1), saved.reshape(-1), dx.reshape(-1)
    share(dy.size, lambda a, b: kernel(*(part[a:b] for part in flat)))
    return dx


def _uint64(name, value):
    good = isinstance(value, int | np.integer) and 0 <= value < 2**64
    require(good, "dropout", "{} must be an int in [0, 2^64), got {!r}", name, value)
    return np.uint64(value)


def _scale(operation, rate):
    require(0 <= rate < 1, operation, "rate must be at least 0 and less than 1, got {!r}", rate)
    return np.float32(1 / (1 - rate))


def relu(x, out=None):
    """max(x, 0), NaN where x is; into `out` if given, which may be x itself."""
    return _each("relu", cpu.relu, x, out)


def relu_backward(dy, y, out=None):
    """Gradient by the input: dy where y > 0, else 0; into `out` if given, which may be dy itself."""
    return _each_backward("relu_backward", cpu.relu_backward, dy, "y", y, out)


def bias_relu_backward(dy, y, *, out=None, db=None):
    """(dx, db) for y = relu(x + b): dx as from relu_backward, db (K,) its sum over all but the last dimension.

    One pass over memory for both. dx goes into `out` if given, which may be dy itself, the sums into `db`.
    """
    dy, y = _gradient("bias_relu_backward", dy, "y", y)
    require(dy.ndim > 0, "bias_relu_backward", "dy {} has no last dimension", dy)
    K = dy.shape[-1]
    dx = output("bias_relu_backward", out, y.shape)
    db = output("bias_relu_backward", db, (K,), apart=[dy, y, dx])
    rows = [array.reshape(-1, K) for array in (dy, y, dx)]
    pieces = -(-len(rows[0]) // cpu.ROWS)
    sums = np.empty((pieces, K), np.float32) if pieces > 1 else db.reshape(1, K)
    share(pieces, lambda first, last: cpu.bias_relu_backward(*rows, sums, first, last))
    if pieces > 1:
        np.sum(sums, axis=0, out=db)
    return dx, db


def gelu(x, out=None):
    """x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016, as in GPT-2).

    Into `out` if given, which may be x itself.
    """
    return _each("gelu", cpu.gelu, x, out)


def gelu_backward(dy, x, out=None):
    """Gradient by the input, dy times gelu's slope at x; into `out` if given, which may be dy or x itself."""
    return _each_backward("gelu_backward", cpu.gelu_backward, dy, "x", x, out)


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
    flat = x.reshape(-1), y.reshape(-1), mask.reshape(-1)

    def work(a, b):
        x, y, mask = (array[a:b] for array in flat)
        cpu.dropout(x, threshold, scale, seed, np.uint64((int(first) + a) % 2**64), y, mask)

    share(x.size, work)
    return y, mask


def dropout_backward(dy, mask, rate, out=None):
    """Gradient by the input: dy * mask / (1 - rate); into `out` if given, which may be dy itself."""
    dy, mask = _gradient("dropout_backward", dy, "mask", mask, np.uint8)
    scale, dx = _scale("dropout_backward", rate), output("dropout_backward", out, dy.shape, apart=[mask])
    flat = dy.reshape(-1), mask.reshape(-1), dx.reshape(-1)

    def work(a, b):
        dy, mask, dx = (array[a:b] for array in flat)
        cpu.dropout_backward(dy, mask, scale, dx)

    share(dy.size, work)
    return dx
