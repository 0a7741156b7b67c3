"""A dense layer is the three products of kernels.matmul."""

from kernels.matmul import cpu as matmul


def forward(x, w, bias, relu, y):
    """y = x w + bias; a bias of None is none."""
    matmul.times(x, w, matmul.NONE if bias is None else bias, relu, y)


def dgrad(dy, w, dx):
    """Gradient by the input, into dx."""
    matmul.times_transposed(dy, w, dx)


def wgrad(x, dy, dw):
    """Gradient by the weights, into dw."""
    matmul.summed(x, dy, dw)
