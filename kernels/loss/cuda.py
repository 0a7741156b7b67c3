"""Softmax and cross entropy on the GPU, a block for each row."""

import numpy as np

from kernels import gpu

REGISTERS = 56
BUILDS = [{"T": T, "VEC": vec} for T, vec in (("float", 4), ("float", 1), ("bfloat16", 8), ("bfloat16", 1))]


def _threads(C):
    """Of a block, for about eight numbers each; up to what a block has."""
    return max(32, min(1 << ((C - 1) // 8).bit_length(), 1024))


def _launch(kernel, logits, *arguments, out):
    """A block a row, which may begin anywhere; for packs, `out` must begin where the logits do modulo 16 bytes."""
    together = (logits.data.ptr - out.data.ptr) % 16 == 0
    gpu.launch("loss", kernel, len(logits), _threads(logits.shape[1]), logits, *arguments, T=gpu.number(logits),
               VEC=16 // logits.itemsize if together else 1)


def softmax(logits, y):
    """Write the probabilities y (N,C)."""
    _launch("softmax", logits, y, logits.shape[1], out=y)


def softmax_cross_entropy(logits, labels, smoothing, loss, dlogits):
    """Write loss (N,) and dlogits (N,C)."""
    C = logits.shape[1]
    _launch("softmax_cross_entropy", logits, labels, loss, dlogits, C, smoothing, smoothing / np.float32(C),
            out=dlogits)
