"""The three products of a layer, x w, dy w^T and x^T dy, and batches of matrices.

Dense layers are these; so are convolutions of one pixel. Arrays are float32, or uint16 for bfloat16; gradients by the
weights are float32, and weights may be so beside bfloat16. Of few rows weights are the traffic.
"""

import numpy as np

from kernels import compiled, micro, scratch
from kernels.bfloat16 import rounded, widened
from kernels.layout import padded_length, transpose
from kernels.matmul import few_rows, packed, pairs
from kernels.matmul.packed import CROWDED, SUMMED
from kernels.micro import ACCUMULATE
from kernels.threads import parallel_for

# Rows up to which packing all weights costs more than it brings: of x w, of x w^T where weights are large or not, and
# of x^T dy; and of bfloat16, whose pairs are twice as fast.
FEW, LARGE, FEW_TRANSPOSED, FEW_SUMMED, FEW_SHORT = 384, 1 << 20, (512, 192), 512, 192

PARTS, SMALL, MANY = 8, 1 << 14, 1 << 13  # of the rows of x and dy, where x^T dy is small and rows are many

NONE = np.zeros(0, np.float32)
jit = compiled.kernel()


def times(x, w, bias, relu, y, more=False):
    """y (M,K) = x (M,C) w (C,K) + bias, clipped at zero if `relu`; an empty bias is none. If `more`, y in float32 is
    added before.
    """
    if x.dtype == np.uint16:
        if len(x) <= FEW_SHORT:
            pairs.few_times(x, w, bias, relu, y)
        else:
            packed.times(pairs.along_rows(x), w, False, bias, relu, y, False, pairs.PAIRS)
        return
    tile = micro.tile()
    if len(x) > FEW:
        packed.times(x, w, False, bias, relu, y, more)
    else:
        panels = -(-w.shape[1] // tile.columns)
        parallel_for(panels, lambda first, last: few_rows.times(
            tile, x, w, bias, relu, y, more, *few_rows.memory(tile, len(x)), first, last))


def times_transposed(x, w, y):
    """y (M,K) = x (M,C) w^T, w (K,C)."""
    few = len(x) <= FEW_TRANSPOSED[w.size <= LARGE]
    if x.dtype == np.uint16:
        if few:
            pairs.few_times_transposed(x, w, y)
        else:
            packed.times(pairs.along_rows(x), w, True, NONE, False, y, False, pairs.PAIRS)
    elif few:
        few_rows.times_transposed(micro.tile(), x, w, y)
    else:
        packed.times(x, w, True, NONE, False, y, False)


def summed(x, dy, dw):
    """dw (C,K) = x^T dy, x (M,C), dy (M,K); dw may be uint16 if these are."""
    if x.dtype == np.uint16:
        if len(x) <= FEW_SUMMED:
            pairs.few_summed(x, dy, dw)
        elif dw.dtype == np.uint16:
            rounded(lambda target: summed(x, dy, target), dw)
        else:
            parallel_for(x.shape[1], lambda first, last: pairs.summed(x, dy, dw, first, last))
        return
    (M, C), K, tile = x.shape, dy.shape[1], micro.tile()

    def work(first, last):
        if M > FEW_SUMMED:
            packed.summed(tile, x, dy, dw, *packed.copies(C, K), first, last)
        else:
            few_rows.summed(tile, x, dy, dw, first, last)

    if M > FEW_SUMMED and x.strides[0] * 2 % CROWDED == 0 and K * 4 <= C:  # then the narrow one had better be the rows
        transposed = scratch.array("transposed", (K, C))
        summed(dy, x, transposed)
        transpose(transposed, dw)
    elif SMALL >= C * K and M >= MANY:
        _summed_in_parts(tile, x, dy, dw)
    else:
        parallel_for(C, work)


def _summed_in_parts(tile, x, dy, dw):
    """The same in parts of all rows, added in their order: so threads do not read all of x and dy each."""
    sums = scratch.array("sums", (PARTS, *dw.shape))
    cuts = [len(x) * part // PARTS for part in range(PARTS + 1)]

    def work(first, last):
        copies = packed.copies(*dw.shape)
        for part in range(first, last):
            rows = slice(cuts[part], cuts[part + 1])
            packed.summed(tile, x[rows], dy[rows], sums[part], *copies, 0, dw.shape[0])

    parallel_for(PARTS, work)
    np.sum(sums, 0, out=dw)


@jit
def _batch(tile, a, b, transposed, c, panels, a_copy, first, last):
    """Matrices first to last of c = a b, or a b^T."""
    K = a.shape[2]
    for i in range(first, last):
        for k in range(0, K, SUMMED):
            part = b[i, :, k:k + SUMMED] if transposed else b[i, k:k + SUMMED]
            filled = panels[:, :min(SUMMED, K - k)]
            packed.pack(part, transposed, 0, len(filled), filled)
            mode = ACCUMULATE if k > 0 else 0
            packed.sweep(tile, a[i, :, k:k + SUMMED], filled, NONE, mode, c[i], a_copy, 0, c.shape[1])


@jit
def _batch_summed(tile, a, b, transposed, c, flat, a_copy, b_copy, first, last):
    """Matrices first to last of c = a^T b, or a^T b^T."""
    for i in range(first, last):
        if transposed:
            transpose(b[i], flat)
            packed.summed(tile, a[i], flat, c[i], a_copy, b_copy, 0, c.shape[1])
        else:
            packed.summed(tile, a[i], b[i], c[i], a_copy, b_copy, 0, c.shape[1])


def matmul(a, transpose_a, b, transpose_b, c):
    """c (B,M,N) = a b, a (B,M,K) or (B,K,M) if transposed, b (B,K,N) or (B,N,K)."""
    if c.dtype == np.uint16:
        rounded(lambda target: matmul(widened("a", a), transpose_a, widened("b", b), transpose_b, target), c)
        return
    tile, (count, M, N) = micro.tile(), c.shape
    K = a.shape[1] if transpose_a else a.shape[2]

    def forward(first, last):
        panels = scratch.array("packed", (-(-N // tile.columns), min(SUMMED, K), tile.columns))
        a_copy = scratch.array("x", (packed.ROWS, padded_length(min(SUMMED, K))))
        _batch(tile, a, b, transpose_b, c, panels, a_copy, first, last)

    def backward(first, last):
        flat = scratch.array("flat", (K, N) if transpose_b else (1, 1))
        _batch_summed(tile, a, b, transpose_b, c, flat, *packed.copies(M, N), first, last)

    if count == 1 and not transpose_a:
        times_transposed(a[0], b[0], c[0]) if transpose_b else times(a[0], b[0], NONE, False, c[0])
    elif count == 1 and not transpose_b:
        summed(a[0], b[0], c[0])
    else:
        parallel_for(count, backward if transpose_a else forward)
