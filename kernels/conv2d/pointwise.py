"""Windows of one pixel: a dense layer on the pixels, those that the stride leaves."""

from kernels import scratch
from kernels.matmul import cpu as matmul


def _seen(x, stride):
    """The pixels a window meets, (pixels, C)."""
    x = x[:, ::stride[0], ::stride[1]]
    if max(stride) > 1:
        seen = scratch.array("seen", x.shape, x.dtype)
        seen[:] = x
        x = seen
    return x.reshape(-1, x.shape[3])


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; an empty bias is none."""
    matmul.times(_seen(x, geometry.stride), w[0, 0], bias, relu, y.reshape(-1, y.shape[3]))


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx."""
    C, (N, P, Q, K), stride = dx.shape[3], dy.shape, geometry.stride
    seen = scratch.array("seen", (N, P, Q, C), dx.dtype) if max(stride) > 1 else dx
    matmul.times_transposed(dy.reshape(-1, K), w[0, 0], seen.reshape(-1, C))
    if max(stride) > 1:
        dx[:] = 0
        dx[:, ::stride[0], ::stride[1]] = seen


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw."""
    matmul.summed(_seen(x, geometry.stride), dy.reshape(-1, dy.shape[3]), dw[0, 0])
