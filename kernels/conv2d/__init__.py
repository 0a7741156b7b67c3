"""Two-dimensional convolution (cross-correlation, as every neural network library defines it), channels-last.

    x (N,H,W,C)   w (R,S,C/groups,K)   b (K,)   y (N,P,Q,K)   P = (H + top + bottom - R) // stride + 1

N images, H x W pixels in, P x Q out, R x S taps, C channels in, K out. Weights and their gradients are float32, x, y
and their gradients too, or bfloat16. `stride` is an int or a pair (rows, columns), `padding` an int, a pair
or ((top, bottom), (left, right)); `groups` divides C and K.
Every function raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels import arguments
from kernels.arguments import ACTIVATION, implementation, require, sizes, tensor


def _geometry(operation, x_shape, w_shape, stride, padding, groups):
    """((sh, sw), ((top, bottom), (left, right)), y shape), or ValueError if the shapes do not go together."""
    stride, padding = arguments.pair(operation, "stride", stride), arguments.padding(operation, padding)
    (N, H, W, C), (R, S, Cg, K) = x_shape, w_shape
    require(isinstance(groups, int | np.integer) and groups >= 1 and C % groups == 0 and K % groups == 0, operation,
            "groups must be a positive int that divides the channels: x {}, w {}, groups {}", x_shape, w_shape, groups)
    require(Cg * groups == C, operation,
            "w must have C/groups input channels: x {}, w {}, groups {}", x_shape, w_shape, groups)
    (sh, sw), ((top, bottom), (left, right)) = stride, padding
    P, Q = (H + top + bottom - R) // sh + 1, (W + left + right - S) // sw + 1
    require(P >= 1 and Q >= 1, operation,
            "the filter is larger than the padded image: x {}, w {}, padding {}", x_shape, w_shape, padding)
    return stride, padding, (N, P, Q, K)


def conv2d(x, w, b=None, *, stride=1, padding=0, groups=1, relu=False, out=None):
    """y (N,P,Q,K) = x (N,H,W,C) * w (R,S,C/groups,K) + b (K,), clipped at zero if `relu`; into `out` if given.

    y has x's dtype, float32 or bfloat16; w and b are float32. Raises ValueError for shapes and dtypes that
    do not fit, and for a filter that is larger than the padded image.
    """
    x, w = tensor("conv2d", "x", x, "NHWC", ACTIVATION), tensor("conv2d", "w", w, "RSCK")
    stride, padding, y_shape = _geometry("conv2d", x.shape, w.shape, stride, padding, groups)
    if b is not None:
        b = tensor("conv2d", "b", b, "K")
        require(b.size == w.shape[3], "conv2d", "b must have K={} values, has {}", w.shape[3], b.size)
    kernel = implementation(__name__, "conv2d", x, w, b)
    y = arguments.output("conv2d", out, y_shape, x.dtype, like=x)
    kernel.forward(x, w, b, relu, y, stride, padding, groups)
    return y


def conv2d_dgrad(dy, w, x_shape, *, stride=1, padding=0, groups=1, out=None):
    """dx of shape `x_shape`, the gradient by the input, from dy (N,P,Q,K) and w; into `out` if given.

    dx has dy's dtype, float32 or bfloat16. Raises ValueError unless a convolution of such an x with w has
    dy's shape.
    """
    dy, w = tensor("conv2d_dgrad", "dy", dy, "NPQK", ACTIVATION), tensor("conv2d_dgrad", "w", w, "RSCK")
    x_shape = sizes("conv2d_dgrad", "x_shape", x_shape)
    stride, padding, y_shape = _geometry("conv2d_dgrad", x_shape, w.shape, stride, padding, groups)
    require(dy.shape == y_shape, "conv2d_dgrad", "dy must be {} for this convolution, got {}", y_shape, dy)
    kernel = implementation(__name__, "conv2d_dgrad", dy, w)
    dx = arguments.output("conv2d_dgrad", out, x_shape, dy.dtype, like=dy)
    kernel.dgrad(dy, w, dx, stride, padding, groups)
    return dx


def conv2d_wgrad(x, dy, w_shape, *, stride=1, padding=0, groups=1, out=None):
    """dw of shape `w_shape`, float32, the gradient by the weights, summed over the images; into `out` if given.

    x (N,H,W,C) and dy (N,P,Q,K) have one dtype, float32 or bfloat16. Raises ValueError unless a convolution
    of x with such a w has dy's shape.
    """
    x = tensor("conv2d_wgrad", "x", x, "NHWC", ACTIVATION)
    dy = tensor("conv2d_wgrad", "dy", dy, "NPQK", x.dtype)
    w_shape = sizes("conv2d_wgrad", "w_shape", w_shape)
    stride, padding, y_shape = _geometry("conv2d_wgrad", x.shape, w_shape, stride, padding, groups)
    require(dy.shape == y_shape, "conv2d_wgrad", "dy must be {} for this convolution, got {}", y_shape, dy)
    kernel = implementation(__name__, "conv2d_wgrad", x, dy)
    dw = arguments.output("conv2d_wgrad", out, w_shape, like=x)
    kernel.wgrad(x, dy, dw, stride, padding, groups)
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
