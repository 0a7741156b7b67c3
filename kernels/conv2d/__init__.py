"""Two-dimensional convolution (cross-correlation, as every neural network library defines it), channels-last.

    x (N,H,W,C)   w (R,S,C/groups,K)   b (K,)   y (N,P,Q,K)
    P = (H + top + bottom - dilation (R - 1) - 1) // stride + 1

N images, H x W pixels in, P x Q out, R x S taps, C channels in, K out. Gradients by the weights are float32, x, y and
their gradients too, or bfloat16; then w is either. `stride` and `dilation`, the distance of neighbouring taps, are an
int or a pair (rows, columns), `padding` an int, a pair or ((top, bottom), (left, right)); `groups` divides C and K.
Every function raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

from typing import NamedTuple

import numpy as np

from kernels import arguments
from kernels.arguments import ACTIVATION, implementation, require, sizes, tensor, weights


class Geometry(NamedTuple):
    """How the window moves over the image, and what of the channels it sees: all pairs but `groups`."""

    stride: tuple
    padding: tuple
    dilation: tuple
    groups: int


def _geometry(operation, x_shape, w_shape, stride, padding, dilation, groups):
    """(Geometry, y shape), or ValueError if the shapes do not go together."""
    stride, dilation = (arguments.pair(operation, *each) for each in (("stride", stride), ("dilation", dilation)))
    padding, ((N, *pixels, C), (*taps, Cg, K)) = arguments.padding(operation, padding), (x_shape, w_shape)
    require(isinstance(groups, int | np.integer) and groups >= 1 and C % groups == 0 and K % groups == 0, operation,
            "groups must be a positive int that divides the channels: x {}, w {}, groups {}", x_shape, w_shape, groups)
    require(Cg * groups == C, operation,
            "w must have C/groups input channels: x {}, w {}, groups {}", x_shape, w_shape, groups)
    dilation = tuple(1 if window == 1 else apart for apart, window in zip(dilation, taps, strict=True))
    free = [size + sum(border) - apart * (window - 1) - 1
            for size, border, apart, window in zip(pixels, padding, dilation, taps, strict=True)]
    require(min(free) >= 0, operation,
            "the filter is larger than the padded image: x {}, w {}, padding {}, dilation {}", x_shape, w_shape,
            padding, dilation)
    y_shape = (N, *(space // step + 1 for space, step in zip(free, stride, strict=True)), K)
    return Geometry(stride, padding, dilation, int(groups)), y_shape


def conv2d(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, relu=False, out=None):
    """y (N,P,Q,K) = x (N,H,W,C) * w (R,S,C/groups,K) + b (K,), clipped at zero if `relu`; into `out` if given.

    y has x's dtype, float32 or bfloat16; w has it, too, or is float32, as b is. Raises ValueError for shapes and dtypes
    that do not fit, and for a filter that is larger than the padded image.
    """
    x = tensor("conv2d", "x", x, "NHWC", ACTIVATION)
    w = weights("conv2d", "w", w, "RSCK", x)
    geometry, y_shape = _geometry("conv2d", x.shape, w.shape, stride, padding, dilation, groups)
    if b is not None:
        b = tensor("conv2d", "b", b, "K")
        require(b.size == w.shape[3], "conv2d", "b must have K={} values, has {}", w.shape[3], b.size)
    kernel = implementation(__name__, "conv2d", x, w, b)
    y = arguments.output("conv2d", out, y_shape, x.dtype, like=x)
    kernel.forward(x, w, b, relu, y, geometry)
    return y


def conv2d_dgrad(dy, w, x_shape, *, stride=1, padding=0, dilation=1, groups=1, out=None):
    """dx of shape `x_shape`, the gradient by the input, from dy (N,P,Q,K) and w; into `out` if given.

    dx has dy's dtype, float32 or bfloat16; w has it, too, or is float32. Raises ValueError unless a convolution of such
    an x with w has dy's shape.
    """
    dy = tensor("conv2d_dgrad", "dy", dy, "NPQK", ACTIVATION)
    w = weights("conv2d_dgrad", "w", w, "RSCK", dy)
    x_shape = sizes("conv2d_dgrad", "x_shape", x_shape)
    geometry, y_shape = _geometry("conv2d_dgrad", x_shape, w.shape, stride, padding, dilation, groups)
    require(dy.shape == y_shape, "conv2d_dgrad", "dy must be {} for this convolution, got {}", y_shape, dy)
    kernel = implementation(__name__, "conv2d_dgrad", dy, w)
    dx = arguments.output("conv2d_dgrad", out, x_shape, dy.dtype, like=dy)
    kernel.dgrad(dy, w, dx, geometry)
    return dx


def conv2d_wgrad(x, dy, w_shape, *, stride=1, padding=0, dilation=1, groups=1, out=None):
    """dw of shape `w_shape`, float32, the gradient by the weights, summed over the images; into `out` if given.

    x (N,H,W,C) and dy (N,P,Q,K) have one dtype, float32 or bfloat16. Raises ValueError unless a convolution
    of x with such a w has dy's shape.
    """
    x = tensor("conv2d_wgrad", "x", x, "NHWC", ACTIVATION)
    dy = tensor("conv2d_wgrad", "dy", dy, "NPQK", x.dtype)
    w_shape = sizes("conv2d_wgrad", "w_shape", w_shape)
    geometry, y_shape = _geometry("conv2d_wgrad", x.shape, w_shape, stride, padding, dilation, groups)
    require(dy.shape == y_shape, "conv2d_wgrad", "dy must be {} for this convolution, got {}", y_shape, dy)
    kernel = implementation(__name__, "conv2d_wgrad", x, dy)
    dw = arguments.output("conv2d_wgrad", out, w_shape, like=x)
    kernel.wgrad(x, dy, dw, geometry)
    return dw


def bias_grad(dy, out=None):
    """db (K,) float32, the gradient by the bias: the sum over all but the last dimension of dy (N,P,Q,K) or (M,K).

    dy is float32 or bfloat16. Into `out` if given. Raises ValueError for another dtype or number of
    dimensions.
    """
    axes = "NPQK" if getattr(dy, "ndim", np.ndim(dy)) == 4 else "NK"
    dy = tensor("bias_grad", "dy", dy, axes, ACTIVATION)
    db = arguments.output("bias_grad", out, dy.shape[-1:], like=dy)
    implementation(__name__, "bias_grad", dy).bias_grad(dy, db)
    return db
