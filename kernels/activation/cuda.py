"""Rectifiers and dropout on the GPU, in one pass over memory each."""

import numpy as np

from kernels import gpu
from kernels.cuda import elementwise, row_reduction

REGISTERS = 72
BUILDS = [{"T": T, "VEC": vec} for T, vec in (("float", 4), ("float", 1), ("bfloat16", 8), ("bfloat16", 1))]


def _each(kernel, *arrays):
    elementwise.launch("activation", kernel, arrays, T=gpu.number(arrays[0]))


def relu(x, y):
    """Write y = max(x, 0), which may be x."""
    _each("relu", x, y)


def relu_backward(dy, y, dx):
    """Write dx, dy where y > 0, else 0; dx may be dy or y."""
    _each("relu_backward", dy, y, dx)


def add(x, y, out):
    """Write out = x + y, which may be either."""
    _each("add", x, y, out)


def bias_relu_backward(dy, y, dx, db):
    """Write dx, dy where y > 0, and db (K,), its sums over rows; dy, y and dx (M,K)."""
    row_reduction.launch("activation", "bias_relu_backward", (dy, y, dx), db, T=gpu.number(dy))


def gelu(x, y):
    """Write y, which may be x."""
    _each("gelu", x, y)


def gelu_backward(dy, x, dx):
    """Write dx, which may be dy or x."""
    _each("gelu_backward", dy, x, dx)


def dropout(x, threshold, scale, seed, first, y, mask):
    """Write y, which may be x, and mask; seed and first numbers, or both arrays (1,)."""
    place = (np.uint64(0), np.uint64(0), seed, first) if gpu.is_array(seed) else (seed, first, None, None)
    elementwise.launch("activation", "dropout", (x, y, mask), threshold, scale, *place, T=gpu.number(x))


def dropout_backward(dy, mask, scale, dx):
    """Write dx = dy * mask * scale; dx may be dy."""
    elementwise.launch("activation", "dropout_backward", (dy, mask, dx), scale, T=gpu.number(dy))
