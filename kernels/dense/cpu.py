"""A dense layer is the three products of kernels.matmul."""

from kernels.bfloat16 import bits
from kernels.matmul import cpu as matmul


def forward(x, w, bias, relu, y):
    """y = x w + bias; a bias of None is none."""
    matmul.times(bits(x), w, matmul.NONE if bias is None else bias, relu, bits(y))


def dgrad(dy, w, dx):
    """Gradient by the input, into dx."""
    matmul.times_transposed(bits(dy), w, bits(dx))


def wgrad(x, dy, dw):
    """Gradient by the weights, into dw."""
    matmul.summed(bits(x), bits(dy), dw)
