"""The three products of a layer, x w, dy w^T and x^T dy, and batches of matrices.

Dense layers are these; so are convolutions of one pixel.
"""

import numpy as np
from numba import njit

from kernels import micro, scratch
from kernels.layout import spread, transpose
from kernels.matmul import few, many
from kernels.matmul.few import CROWDED, SUMMED
from kernels.micro import ACCUMULATE
from kernels.threads import share

FEW = 64  # rows for which packing weights costs more than it brings

NONE = np.zeros(0, np.float32)
jit = njit(nogil=True, cache=True)


def times(x, w, bias, relu, y, more=False):
    """y (M,K) = x (M,C) w (C,K) + bias, and + y if `more`, clipped at zero if `relu`; an empty bias is none."""
    tile = micro.tile()
    if len(x) > FEW:
        many.times(x, w, False, bias, relu, y, more)
    else:
        panels = -(-w.shape[1] // tile.columns)
        share(panels, lambda first, last: few.times(tile, x, w, bias, relu, y, more, first, last))


def times_turned(x, w, y):
    """y (M,K) = x (M,C) w^T, w (K,C)."""
    (M, C), tile = x.shape, micro.tile()
    if M > FEW:
        many.times(x, w, True, NONE, False, y, False)
        return
    panels = scratch.array("panels", (-(-M // tile.columns), C, tile.columns))
    many.pack(x, True, 0, len(panels), panels)

    def work(first, last):
        part = scratch.array("part", (tile.rows, tile.columns))
        few.times_turned(tile, panels, w, part, y, first, last)

    share(len(w), work)


def summed(x, dy, dw):
    """dw (C,K) = x^T dy, x (M,C), dy (M,K)."""
    (M, C), K, tile = x.shape, dy.shape[1], micro.tile()

    def work(first, last):
        if M > FEW:
            many.summed(tile, x, dy, dw, *many.copies(C, K), first, last)
        else:
            few.summed(tile, x, dy, dw, first, last)

    if M > FEW and x.strides[0] * 2 % CROWDED == 0 and K * 4 <= C:  # then the narrow one had better be the rows
        turned = scratch.array("turned", (K, C))
        summed(dy, x, turned)
        transpose(turned, dw)
    else:
        share(C, work)


@jit
def _batch(tile, a, b, turned, c, packed, a_copy, first, last):
    """Matrices first to last of c = a b, or a b^T."""
    K = a.shape[2]
    for i in range(first, last):
        for k in range(0, K, SUMMED):
            part = b[i, :, k:k + SUMMED] if turned else b[i, k:k + SUMMED]
            panels = packed[:, :min(SUMMED, K - k)]
            many.pack(part, turned, 0, len(packed), panels)
            mode = ACCUMULATE if k > 0 else 0
            many.sweep(tile, a[i, :, k:k + SUMMED], panels, NONE, mode, c[i], a_copy, 0, c.shape[1])


@jit
def _batch_summed(tile, a, b, turned, c, flat, a_copy, b_copy, first, last):
    """Matrices first to last of c = a^T b, or a^T b^T."""
    for i in range(first, last):
        if turned:
            transpose(b[i], flat)
            many.summed(tile, a[i], flat, c[i], a_copy, b_copy, 0, c.shape[1])
        else:
            many.summed(tile, a[i], b[i], c[i], a_copy, b_copy, 0, c.shape[1])


def matmul(a, transpose_a, b, transpose_b, c):
    """c (B,M,N) = a b, a (B,M,K) or (B,K,M) if transposed, b (B,K,N) or (B,N,K)."""
    tile, (count, M, N) = micro.tile(), c.shape
    K = a.shape[1] if transpose_a else a.shape[2]

    def forward(first, last):
        packed = scratch.array("packed", (-(-N // tile.columns), min(SUMMED, K), tile.columns))
        a_copy = scratch.array("x", (many.ROWS, spread(min(SUMMED, K))))
        _batch(tile, a, b, transpose_b, c, packed, a_copy, first, last)

    def backward(first, last):
        flat = scratch.array("flat", (K, N) if transpose_b else (1, 1))
        _batch_summed(tile, a, b, transpose_b, c, flat, *many.copies(M, N), first, last)

    if count == 1 and not transpose_a:
        times_turned(a[0], b[0], c[0]) if transpose_b else times(a[0], b[0], NONE, False, c[0])
    elif count == 1 and not transpose_b:
        summed(a[0], b[0], c[0])
    else:
        share(count, backward if transpose_a else forward)
