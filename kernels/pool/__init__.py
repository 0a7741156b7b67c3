"""Pooling over windows of an image, channels-last.

    x (N,H,W,C)   y (N,P,Q,C)   index (N,P,Q,C) uint8

N images, H x W pixels in, P x Q windows of R x S taps, C channels; x, y and gradients are all float32 or all
bfloat16. There an index that names no tap of its window is nobody's.
`window` and `stride` are an int or a pair (rows, columns), `padding` an int, a pair or
((top, bottom), (left, right)), less than the window.

    P = (H + top + bottom - R) / stride + 1, rounded down

`ceil_mode` rounds up instead, so that the last window may hang over the edge, but drops a window that would
start behind the input (Caffe's and PyTorch's rule). Results go into `out` if given, which must not overlap what
they are computed from. Every function raises ValueError, naming the operation and the shapes, for anything that
does not fit.
"""

import numpy as np

from kernels import gpu
from kernels.arguments import ACTIVATION, implementation, output, require, sizes, tensor, two_outputs
from kernels.pool.geometry import axes


def _y_shape(x_shape, rows, columns):
    return x_shape[0], len(rows.start), len(columns.start), x_shape[3]


def _dy(operation, dy, x_shape, rows, columns):
    dy, y_shape = tensor(operation, "dy", dy, "NPQC", ACTIVATION), _y_shape(x_shape, rows, columns)
    require(dy.shape == y_shape, operation, "dy must be {} for x {}, got {}", y_shape, x_shape, dy)
    return dy


def _taps(operation, rows, columns):
    taps = rows.window * columns.window
    require(taps <= 256, operation, "window {} x {} has more than 256 taps", rows.window, columns.window)
    return taps


def _index(operation, index, dy, rows, columns):
    index, taps = tensor(operation, "index", index, "NPQC", np.uint8), _taps(operation, rows, columns)
    require(index.shape == dy.shape, operation, "index {} and dy {} must agree", index, dy)
    if not gpu.is_array(index):
        require(index.max() < taps, operation, "index names tap {} of a window of {}", index.max(), taps)
    return index


def pool2d_shape(x_shape, window, *, stride, padding=0, ceil_mode=False):
    """The shape (N,P,Q,C) of y for an x of shape (N,H,W,C). Raises ValueError if no window fits."""
    return _y_shape(x_shape, *axes("pool2d_shape", x_shape, window, stride, padding, ceil_mode))


def maxpool2d(x, window, *, stride, padding=0, ceil_mode=False, out=None):
    """(y, index): the maximum of each window, and the tap r * S + s (of 256 at most) where it is.

    y (N,P,Q,C) has the dtype of x (N,H,W,C), float32 or bfloat16; index (N,P,Q,C) is uint8. Of equals the
    first in row-major order wins; a NaN counts as the largest; padding never wins. Into the pair `out` if given. Raises
    ValueError for anything that does not fit.
    """
    x = tensor("maxpool2d", "x", x, "NHWC", ACTIVATION)
    rows, columns = axes("maxpool2d", x.shape, window, stride, padding, ceil_mode)
    _taps("maxpool2d", rows, columns)
    y_shape = _y_shape(x.shape, rows, columns)
    y, index = two_outputs("maxpool2d", out)
    y = output("maxpool2d", y, y_shape, x.dtype, like=x, apart=[x])
    index = output("maxpool2d", index, y_shape, np.uint8, like=x, apart=[x, y])
    implementation(__name__, "maxpool2d", x).maxpool2d(x, rows, columns, y, index)
    return y, index


def maxpool2d_backward(dy, index, x_shape, window, *, stride, padding=0, ceil_mode=False, out=None):
    """dx of shape `x_shape` and dy's dtype, the gradient by the input: each dy (N,P,Q,C) goes to the tap that won.

    index (N,P,Q,C) is maxpool2d's. Into `out` if given. Raises ValueError for anything that does not fit, and on the
    CPU for an index beyond the window.
    """
    x_shape = sizes("maxpool2d_backward", "x_shape", x_shape)
    rows, columns = axes("maxpool2d_backward", x_shape, window, stride, padding, ceil_mode)
    dy = _dy("maxpool2d_backward", dy, x_shape, rows, columns)
    index = _index("maxpool2d_backward", index, dy, rows, columns)
    kernel = implementation(__name__, "maxpool2d_backward", dy, index)
    dx = output("maxpool2d_backward", out, x_shape, dy.dtype, like=dy, apart=[dy, index])
    kernel.maxpool2d_backward(dy, index, rows, columns, dx)
    return dx


def avgpool2d(x, window, *, stride, padding=0, ceil_mode=False, count_include_pad=True, out=None):
    """y (N,P,Q,C), the mean of each window of x (N,H,W,C), of its dtype, float32 or bfloat16.

    Windows are clipped to the padded input, or without `count_include_pad` to the input. Into `out` if given. Raises
    ValueError for anything that does not fit.
    """
    x = tensor("avgpool2d", "x", x, "NHWC", ACTIVATION)
    rows, columns = axes("avgpool2d", x.shape, window, stride, padding, ceil_mode, count_include_pad)
    y = output("avgpool2d", out, _y_shape(x.shape, rows, columns), x.dtype, like=x, apart=[x])
    implementation(__name__, "avgpool2d", x).avgpool2d(x, rows, columns, y)
    return y


def avgpool2d_backward(dy, x_shape, window, *, stride, padding=0, ceil_mode=False, count_include_pad=True, out=None):
    """dx of shape `x_shape` and dy's dtype, the gradient by the input: each dy (N,P,Q,C) is divided equally among its
    window.

    Into `out` if given. Raises ValueError for anything that does not fit.
    """
    x_shape = sizes("avgpool2d_backward", "x_shape", x_shape)
    rows, columns = axes("avgpool2d_backward", x_shape, window, stride, padding, ceil_mode, count_include_pad)
    dy = _dy("avgpool2d_backward", dy, x_shape, rows, columns)
    dx = output("avgpool2d_backward", out, x_shape, dy.dtype, like=dy, apart=[dy])
    implementation(__name__, "avgpool2d_backward", dy).avgpool2d_backward(dy, rows, columns, dx)
    return dx


def global_avgpool(x, out=None):
    """y (N,C), the mean of every channel of x (N,H,W,C), of its dtype, float32 or bfloat16.

    Into `out` if given. Raises ValueError for anything that does not fit.
    """
    x = tensor("global_avgpool", "x", x, "NHWC", ACTIVATION)
    N, H, W, C = x.shape
    y = output("global_avgpool", out, (N, C), x.dtype, like=x, apart=[x])
    avgpool2d(x, (H, W), stride=1, out=y.reshape(N, 1, 1, C))
    return y


def global_avgpool_backward(dy, x_shape, out=None):
    """dx of shape `x_shape` and dy's dtype, the gradient by the input, from dy (N,C); into `out` if given.

    Raises ValueError for shapes that do not agree.
    """
    dy = tensor("global_avgpool_backward", "dy", dy, "NC", ACTIVATION)
    N, H, W, C = x_shape = sizes("global_avgpool_backward", "x_shape", x_shape)
    fits = dy.shape == (N, C)
    require(fits, "global_avgpool_backward", "dy must be {} for x {}, got {}", (N, C), x_shape, dy)
    return avgpool2d_backward(dy.reshape(N, 1, 1, C), x_shape, (H, W), stride=1, out=out)
