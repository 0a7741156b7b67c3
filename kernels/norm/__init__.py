"""Local response normalization across channels, channels-last (Krizhevsky et al. 2012, section 3.3).

    s = k + alpha / size * (sum of x^2 over the `size` channels around each)      y = x / s^beta

x, y and gradients are (N,H,W,C) float32 or bfloat16. The channels around c are c - (size-1)//2 ...
c + size//2, as far as they exist; alpha is divided by size, as Caffe, ONNX and PyTorch do and the paper does not.
Every function raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels.arguments import ACTIVATION, implementation, output, require, tensor


def _constants(operation, size, *numbers):
    """(size, alpha / size, beta, k) as the kernels take them."""
    good = isinstance(size, int | np.integer) and size >= 1
    require(good, operation, "size must be a positive int, got {!r}", size)
    alpha, beta, k = (np.float32(number) for number in numbers)
    return int(size), np.float32(alpha / size), beta, k


def lrn(x, size, alpha, beta, k, out=None):
    """The normalized y, of the shape and dtype of x (N,H,W,C); into `out` if given, which may be x itself.

    Raises ValueError unless x is float32 or bfloat16, and size a positive int.
    """
    x = tensor("lrn", "x", x, "NHWC", ACTIVATION)
    kernel = implementation(__name__, "lrn", x)
    y = output("lrn", out, x.shape, x.dtype, like=x)
    kernel.lrn(x, *_constants("lrn", size, alpha, beta, k), y)
    return y


def lrn_backward(dy, x, y, size, alpha, beta, k, out=None):
    """dx, the gradient by the input: dy / s^beta - 2 alpha beta / size * x * (sum of dy y / s over x's windows).

    dy, x, y and dx are (N,H,W,C) of one dtype, float32 or bfloat16. Into `out` if given, which may be dy, x
    or y itself. y is computed anew. Raises ValueError as lrn does, and for shapes that differ.
    """
    x = tensor("lrn_backward", "x", x, "NHWC", ACTIVATION)
    dy, y = (tensor("lrn_backward", name, a, "NHWC", x.dtype) for name, a in (("dy", dy), ("y", y)))
    agree = dy.shape == x.shape == y.shape
    require(agree, "lrn_backward", "dy {}, x {} and y {} must agree", dy, x, y)
    kernel = implementation(__name__, "lrn_backward", dy, x, y)
    dx = output("lrn_backward", out, x.shape, x.dtype, like=x)
    kernel.lrn_backward(dy, x, y, *_constants("lrn_backward", size, alpha, beta, k), dx)
    return dx
