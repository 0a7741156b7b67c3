"""Products with many rows: panels of weights are packed and stay in cache.

What comes from memory, or goes there, is prefetched while the micro-kernel computes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kernels import compiled, micro, scratch
from kernels.bfloat16 import convert_rows
from kernels.layout import copy, padded_length, transpose
from kernels.micro import ACCUMULATE, BFLOAT16, RELU, multiply
from kernels.progress import tick
from kernels.threads import parallel_for
from kernels.vectors import call

FLOAT = 4
SUMMED = 1024  # products in one go: the rounding error grows with the longest sum
CROWDED = 4096  # bytes from one row to the next, or a multiple: all rows would share the same sets of L1
ROWS = 112  # rows of x for which a panel is used before the next
PACKED = 2 << 20  # bytes of weights packed at a time: they are read from L2, or L3, once for every ROWS
PIXELS, CHANNELS = 128, 1024  # of x in a gradient by weights: a part of it that stays in L2

jit = compiled.kernel()


@jit
def pack(w, transposed, first, last, packed):
    """Panels first to last of w (C,K), or of w^T if transposed, to packed (panels, C, wide).

    Columns that a short last panel lacks keep what was in `packed`.
    """
    wide = packed.shape[2]
    if transposed:
        for j in range(first, last):
            part = w[j * wide:(j + 1) * wide]
            transpose(part, packed[j, :, :part.shape[0]])
            tick(part.size)
    else:
        for c in range(w.shape[0]):  # in the order of memory
            for j in range(first, last):
                source, target = w[c, j * wide:(j + 1) * wide], packed[j, c]
                for k in range(source.size):
                    target[k] = source[k]
            tick(wide * (last - first))


@jit
def sweep(tile, x, packed, bias, mode, y, x_copy, first, last):
    """Rows first to last of y = x times packed panels; `mode` as micro.py has it."""
    (panels, depth, wide), K = packed.shape, y.shape[1]
    x_row, y_row = x.strides[0], y.strides[0]
    for m in range(first, last, ROWS):
        rows = min(ROWS, last - m)
        a, a_row = x[m].ctypes.data, x_row
        if x_row % CROWDED == 0:
            copy(x[m:m + rows], x_copy)
            a, a_row = x_copy.ctypes.data, x_copy.strides[0]
        tiles = -(-rows // tile.rows)
        fetched = -(-rows * x_row // (panels * tiles * depth))  # of the next rows of x, with every step
        for j in range(panels):
            c = y[m, j * wide:].ctypes.data
            if depth < K:  # more is written than read: fetch the next panel of y
                following = c + wide * FLOAT if j + 1 < panels else y.ctypes.data + (m + rows) * y_row
                prefetch = following, y_row, -(-rows // tiles) * y_row
            else:
                prefetch = x.ctypes.data + (m + rows) * x_row + j * tiles * depth * fetched, fetched, depth * fetched
            call(tile.address, (rows, min(wide, K - j * wide), depth, a, a_row, FLOAT,
                                packed[j].ctypes.data, wide * FLOAT, c, y_row, 1, tile.zero, tile.zero, mode,
                                bias[j * wide:].ctypes.data if bias.size else 0, *prefetch))


class Numbers(NamedTuple):
    """What the elements of 4 bytes are of which products are made.

    each   numbers in one       tile   gives micro.py's Tile      pack   writes them into panels, as `pack` here
    """

    each: int
    tile: Callable
    pack: Callable


FLOATS = Numbers(1, micro.tile, pack)


def times(x, w, transposed, bias, relu, y, more, numbers=FLOATS):
    """y (M,K) = x (M,C) w, with w (n C,K), or (K,n C) if transposed, for n numbers in an element of x.

    y is float32, or uint16 for bfloat16.
    """
    (M, C), K, tile, n = x.shape, y.shape[1], numbers.tile(), numbers.each
    wide = tile.columns
    chunk = -(-C // -(-C // SUMMED))
    width = max(1, PACKED // (chunk * wide * FLOAT)) * wide
    short = y.dtype == np.uint16
    for k in range(0, K, width):
        final, end = y[:, k:k + width], min(K, k + width)
        target = scratch.array("total", final.shape) if short and chunk < C else final  # sums are float32
        for c in range(0, C, chunk):
            part = w[k:end, n * c:n * (c + chunk)] if transposed else w[n * c:n * (c + chunk), k:end]
            rows = x[:, c:c + chunk]
            packed = scratch.array("packed", (-(-(end - k) // wide), rows.shape[1], wide))
            mode = (ACCUMULATE if more or c > 0 else 0) | (RELU if relu and c + chunk >= C else 0)
            mode |= BFLOAT16 if target.dtype == np.uint16 else 0

            def pack_some(first, last, part=part, packed=packed):
                numbers.pack(part, transposed, first, last, packed)

            def sweep_some(first, last, rows=rows, packed=packed, begin=bias[k:end], mode=mode, target=target):
                x_copy = scratch.array("x", (ROWS, padded_length(rows.shape[1])))
                sweep(tile, rows, packed, begin, mode, target, x_copy, first, last)

            parallel_for(len(packed), pack_some)
            parallel_for(M, sweep_some)
        if target is not final:
            parallel_for(M, lambda first, last: convert_rows(target[first:last], final[first:last]))  # noqa: B023


@jit
def summed(tile, x, dy, dw, x_copy, dy_copy, first, last):
    """Rows first to last of dw = x^T dy, PIXELS by PIXELS; where lines crowd in the same sets, from copies."""
    wide, (M, K), C = tile.columns, dy.shape, x.shape[1]
    panels = -(-K // wide)
    for c in range(first, last, CHANNELS):
        count = min(CHANNELS, last - c)
        tiles = -(-count // tile.rows)
        for m in range(0, M, PIXELS):
            depth = min(PIXELS, M - m)
            a, b = x[m:m + depth, c:c + count], dy[m:m + depth]
            a_at, a_k, b_at, b_k = a.ctypes.data, a.strides[0], b.ctypes.data, b.strides[0]
            following, row = (a_at, a_k) if C > K else (b_at, b_k)  # the wider of the two is fetched in time
            fetched = -(-row // (panels * tiles)) if count == C else 0
            if a_k * 2 % CROWDED == 0:
                copy(a, x_copy)
                a_at, a_k = x_copy.ctypes.data, x_copy.strides[0]
            if b_k * 2 % CROWDED == 0:
                copy(b, dy_copy)
                b_at, b_k = dy_copy.ctypes.data, dy_copy.strides[0]
            for j in range(panels):
                multiply(tile, count, min(wide, K - j * wide), depth, (a_at, FLOAT, a_k),
                         (b_at + j * wide * FLOAT, b_k), (dw[c, j * wide:].ctypes.data, dw.strides[0]),
                         ACCUMULATE if m > 0 else 0,
                         (following + depth * (row + j * tiles * fetched), fetched, depth * fetched))


def copies(C, K):
    """Working memory of `summed`: copies of PIXELS rows of x (M,C) and of dy (M,K)."""
    return (scratch.array("x", (PIXELS, padded_length(min(C, CHANNELS)))),
            scratch.array("dy", (PIXELS, padded_length(K))))
