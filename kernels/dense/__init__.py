"""Fully connected layer.

    x (M,C)   w (C,K)   b (K,)   y (M,K)

M samples, C inputs, K outputs; gradients by the weights are float32, x, y and their gradients too, or bfloat16; then w
is either. Every function raises ValueError, naming the operation and the shapes, for anything that does not fit. The
gradient by the bias is `kernels.bias_grad`.
"""

import numpy as np

from kernels import arguments
from kernels.arguments import ACTIVATION, implementation, require, tensor, weights


def dense(x, w, b=None, *, relu=False, out=None):
    """y (M,K) = x (M,C) w (C,K) + b (K,), clipped at zero if `relu`; into `out` if given.

    y has x's dtype, float32 or bfloat16; w has it, too, or is float32, as b is. Raises ValueError for anything that
    does not fit.
    """
    x = tensor("dense", "x", x, "MC", ACTIVATION)
    w = weights("dense", "w", w, "CK", x)
    require(x.shape[1] == w.shape[0], "dense", "x {} and w {} must agree in C", x, w)
    if b is not None:
        b = tensor("dense", "b", b, "K")
        require(b.size == w.shape[1], "dense", "b must have K={} values, has {}", w.shape[1], b.size)
    kernel = implementation(__name__, "dense", x, w, b)
    y = arguments.output("dense", out, (x.shape[0], w.shape[1]), x.dtype, like=x)
    kernel.forward(x, w, b, relu, y)
    return y


def dense_dgrad(dy, w, out=None):
    """dx (M,C), the gradient by the input, from dy (M,K) and w (C,K); into `out` if given.

    dx has dy's dtype, float32 or bfloat16; w has it, too, or is float32. Raises ValueError for anything that does not
    fit.
    """
    dy = tensor("dense_dgrad", "dy", dy, "MK", ACTIVATION)
    w = weights("dense_dgrad", "w", w, "CK", dy)
    require(dy.shape[1] == w.shape[1], "dense_dgrad", "dy {} and w {} must agree in K", dy, w)
    kernel = implementation(__name__, "dense_dgrad", dy, w)
    dx = arguments.output("dense_dgrad", out, (dy.shape[0], w.shape[0]), dy.dtype, like=dy)
    kernel.dgrad(dy, w, dx)
    return dx


def dense_wgrad(x, dy, out=None):
    """dw (C,K) float32, the gradient by the weights, from x (M,C) and dy (M,K); into `out` if given.

    It is the sum over the samples. x and dy have one dtype, float32 or bfloat16, which `out` may have, too. Raises
    ValueError for anything that does not fit.
    """
    x = tensor("dense_wgrad", "x", x, "MC", ACTIVATION)
    dy = tensor("dense_wgrad", "dy", dy, "MK", x.dtype)
    require(x.shape[0] == dy.shape[0], "dense_wgrad", "x {} and dy {} must agree in M", x, dy)
    kernel = implementation(__name__, "dense_wgrad", x, dy)
    dtype = x.dtype if getattr(out, "dtype", None) == x.dtype else np.float32
    dw = arguments.output("dense_wgrad", out, (x.shape[1], dy.shape[1]), dtype, like=x)
    kernel.wgrad(x, dy, dw)
    return dw
