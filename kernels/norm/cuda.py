"""Local response normalization on the GPU; `share` is alpha / size."""

import itertools

import numpy as np

from kernels import gpu
from kernels.arguments import overlap
from kernels.cuda import elementwise

REGISTERS = 64
PACKS = (("float", 4), ("float", 1), ("bfloat16", 8), ("bfloat16", 1))
BUILDS = [{"T": T, "VEC": vec, "BEFORE": 2, "AFTER": 2, "THREE_QUARTERS": usual}
          for (T, vec), usual in itertools.product(PACKS, (1, 0))]


def _launch(kernel, inputs, out, size, *constants):
    """A kernel on arrays (N,H,W,C); neighbours read what a thread overwrites, so an input that is `out` is copied."""
    inputs = [array.copy() if overlap(array, out) else array for array in inputs]
    C = out.shape[3]
    vec, pixels = gpu.pack(C, *inputs, out), out.size // C
    width = min(C // vec, elementwise.THREADS)
    blocks = min(-(-pixels // (elementwise.THREADS // width)), elementwise.BLOCKS * gpu.multiprocessors())
    gpu.launch("norm", kernel, blocks, elementwise.THREADS, *inputs, out, np.int64(pixels), C, width, *constants,
               T=gpu.number(out), VEC=vec, BEFORE=min((size - 1) // 2, C - 1), AFTER=min(size // 2, C - 1),
               THREE_QUARTERS=int(constants[1] == np.float32(0.75)))


def lrn(x, size, share, beta, k, y):
    """Write y = x / s^beta, which may be x."""
    _launch("lrn", [x], y, size, share, beta, k)


def lrn_backward(dy, x, y, size, share, beta, k, dx):
    """Write the gradient by x to dx, which may be dy, x or y; y is computed again."""
    _launch("lrn_backward", [dy, x], dx, size, share, beta, k, np.float32(2) * share * beta)
