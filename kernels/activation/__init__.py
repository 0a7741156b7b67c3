"""Rectifiers and dropout, on arrays of any shape.

Activations x, y and their gradients are float32 or bfloat16; all arrays of a call have one dtype, but for
masks (uint8) and gradients by a bias (float32). Every function raises ValueError, naming the operation and the shapes,
for anything that does not fit.
"""

import numpy as np

from kernels import gpu
from kernels.arguments import ACTIVATION, array, implementation, output, require, two_outputs


def _gradient(operation, dy, name, saved, dtype=None):
    """dy and the array `name` saved by the forward pass, of the same shape and, unless it is given, dtype."""
    dy = array(operation, "dy", dy, ACTIVATION)
    saved = array(operation, name, saved, dtype or dy.dtype)
    require(dy.shape == saved.shape, operation, "dy {} and {} {} must agree", dy, name, saved)
    return dy, saved


def _each(operation, x, out):
    """Run the kernel operation(x, y); return y, of the shape of x."""
    x = array(operation, "x", x, ACTIVATION)
    kernel = implementation(__name__, operation, x)
    y = output(operation, out, x.shape, x.dtype, like=x)
    getattr(kernel, operation)(x.reshape(-1), y.reshape(-1))
    return y


def _each_backward(operation, dy, name, saved, out):
    """Run the kernel operation(dy, saved, dx), where `saved` is what the forward pass left; return dx."""
    dy, saved = _gradient(operation, dy, name, saved)
    kernel = implementation(__name__, operation, dy, saved)
    dx = output(operation, out, dy.shape, dy.dtype, like=dy)
    getattr(kernel, operation)(*(array.reshape(-1) for array in (dy, saved, dx)))
    return dx


def _uint64(name, value):
    if gpu.is_array(value):
        return value
    good = isinstance(value, int | np.integer) and 0 <= value < 2**64
    require(good, "dropout", "{} must be an int in [0, 2^64), got {!r}", name, value)
    return np.uint64(value)


def _scale(operation, rate):
    require(0 <= rate < 1, operation, "rate must be at least 0 and less than 1, got {!r}", rate)
    return np.float32(1 / (1 - rate))


def relu(x, out=None):
    """y = max(x, 0), of x's shape and dtype, float32 or bfloat16; NaN stays NaN.

    Into `out` if given, which may be x itself. Raises ValueError for another dtype.
    """
    return _each("relu", x, out)


def relu_backward(dy, y, out=None):
    """dx, the gradient by the input: dy where y > 0, else 0.

    dy, y and dx have one shape and dtype, float32 or bfloat16. Into `out` if given, which may be dy or y.
    Raises ValueError for other dtypes and for shapes that differ.
    """
    return _each_backward("relu_backward", dy, "y", y, out)


def add(x, y, out=None):
    """x + y, of one shape and dtype, float32 or bfloat16: where two paths of a net meet.

    Into `out` if given, which may be x or y. Raises ValueError for other dtypes and for shapes that differ.
    """
    return _each_backward("add", x, "y", y, out)


def bias_relu_backward(dy, y, *, out=None, db=None):
    """(dx, db) for y = relu(x + b): dx as from relu_backward, db (K,) float32 its sums over all but the last dimension.

    One pass over memory for both. dx goes into `out` if given, which may be dy itself, the sums into `db`. Raises
    ValueError as relu_backward does.
    """
    dy, y = _gradient("bias_relu_backward", dy, "y", y)
    require(dy.ndim > 0, "bias_relu_backward", "dy {} has no last dimension", dy)
    kernel = implementation(__name__, "bias_relu_backward", dy, y)
    K = dy.shape[-1]
    dx = output("bias_relu_backward", out, y.shape, y.dtype, like=y)
    db = output("bias_relu_backward", db, (K,), like=y, apart=[dy, y, dx])
    kernel.bias_relu_backward(*(array.reshape(-1, K) for array in (dy, y, dx)), db)
    return dx, db


def gelu(x, out=None):
    """y = x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016, as in GPT-2).

    y has x's shape and dtype, float32 or bfloat16. Into `out` if given, which may be x itself.
    """
    return _each("gelu", x, out)


def gelu_backward(dy, x, out=None):
    """dx = dy times gelu's derivative at x; all three of one shape and dtype, float32 or bfloat16.

    Into `out` if given, which may be dy or x itself. Raises ValueError for other dtypes and for shapes that differ.
    """
    return _each_backward("gelu_backward", dy, "x", x, out)


def dropout(x, rate, *, seed, first=0, out=None):
    """(y, mask): y = x * mask / (1 - rate), mask uint8, 0 with probability `rate` (Srivastava et al. 2014).

    The mask of element i of the flattened x depends on `seed` and `first` + i alone (ints in [0, 2^64), added modulo
    2^64): a batch cut into parts gets the mask it has whole if `first` counts the elements before. ref.uniform spells
    out the random numbers, a SplitMix64 stream (Steele, Lea and Flood 2014). For x on a GPU both may be arrays (1,)
    uint64 there. Into the pair `out` if given, whose first may be x itself. Raises ValueError unless 0 <= rate < 1.
    """
    x, scale = array("dropout", "x", x, ACTIVATION), _scale("dropout", rate)
    seed, first, threshold = _uint64("seed", seed), _uint64("first", first), np.uint64(round(rate * 2**32))
    kernel, (y, mask) = implementation(__name__, "dropout", x), two_outputs("dropout", out)
    y = output("dropout", y, x.shape, x.dtype, like=x)
    mask = output("dropout", mask, x.shape, np.uint8, like=x, apart=[x])
    kernel.dropout(x.reshape(-1), threshold, scale, seed, first, y.reshape(-1), mask.reshape(-1))
    return y, mask


def dropout_backward(dy, mask, rate, out=None):
    """dx = dy * mask / (1 - rate), of dy's shape and dtype, from the uint8 mask that dropout returned.

    Into `out` if given, which may be dy itself. Raises ValueError for shapes that differ and unless 0 <= rate < 1.
    """
    dy, mask = _gradient("dropout_backward", dy, "mask", mask, np.uint8)
    scale, kernel = _scale("dropout_backward", rate), implementation(__name__, "dropout_backward", dy, mask)
    dx = output("dropout_backward", out, dy.shape, dy.dtype, like=dy, apart=[mask])
    kernel.dropout_backward(dy.reshape(-1), mask.reshape(-1), scale, dx.reshape(-1))
    return dx
