"""Products of bfloat16: pairs of numbers that follow each other in a sum stand where one float32 stands in packed.py.

Arrays are uint16 with bfloat16's bits; weights may be float32, and are rounded on the way into panels. Of few rows all
traffic is weights: they are read once, in order, as in few_rows.py.
"""

import numpy as np

from kernels import amx, compiled, micro, scratch
from kernels.bfloat16 import convert_rows, short
from kernels.hints import adjacent, restrict
from kernels.layout import LINE_FLOATS as LINE
from kernels.layout import padded_length, transpose
from kernels.matmul import few_rows, packed
from kernels.matmul.few_rows import SLICE
from kernels.matmul.packed import CHANNELS, FLOAT, PIXELS
from kernels.micro import ACCUMULATE, RELU, multiply
from kernels.progress import tick
from kernels.threads import parallel_for
from kernels.vectors import call

WIDTH = 512  # columns of weights, the products of few rows with a part of them

jit, inner = compiled.decorators()


@inner
def interleave(x, out):
    """out[p, 2 i] = x[2 p, i], out[p, 2 i + 1] = x[2 p + 1, i]; zero for a row that x has not."""
    out = restrict(out)
    for p in range((x.shape[0] + 1) // 2):
        row, first = adjacent(out[p]), adjacent(x[2 * p])
        if 2 * p + 1 < x.shape[0]:
            second = adjacent(x[2 * p + 1])
            for i in range(first.size):
                row[2 * i], row[2 * i + 1] = short(first[i]), short(second[i])
        else:
            for i in range(first.size):
                row[2 * i], row[2 * i + 1] = short(first[i]), 0


@inner
def _shorten(x, out):
    """out (K,C) = x (K,C), and a zero more where C is odd."""
    for k in range(x.shape[0]):
        source, target = adjacent(x[k]), out[k]
        for c in range(source.size):
            target[c] = short(source[c])
        for c in range(source.size, target.size):
            target[c] = 0


@jit
def down_columns(x, out):
    """Each of x (T,M,C), float32 or uint16, as pairs of what is below each other: out (T,ceil(M/2),2 C)."""
    for t in range(x.shape[0]):
        interleave(x[t], out[t])
        tick(x[t].size)


@jit
def shorten(x, out):
    """out (M,C) uint16 = x (M,C), rounded if it is float32; out may have one column more, of zeros."""
    _shorten(x, out)


def along_rows(x, name="pairs"):
    """x (M,C), float32 or uint16, as pairs (M,ceil(C/2)) of neighbours in its rows, seen as float32: the same memory if
    it can be, else a copy of that name, with a zero at the end of odd rows.
    """
    (M, C), short = x.shape, x.dtype == np.uint16
    if short and C % 2 == 0:
        return x.view(np.float32)
    pairs = scratch.array(name, (M, -(-C // 2)))
    parallel_for(M, lambda first, last: shorten(x[first:last], pairs[first:last].view(np.uint16)))
    return pairs


@jit
def _pack(w, first, last, panels, row, short_row):
    """Panels first to last of w (C,K) to panels (panels,C/2,wide) of pairs, in the order of memory, by way of `row`
    (K,), which is `short_row` (1,2 K) as uint16.
    """
    (_, depth, wide), K = panels.shape, w.shape[1]
    begin, end = first * wide, min(K, last * wide)
    for p in range(depth):
        interleave(w[2 * p:2 * p + 2, begin:end], short_row)
        for j in range(first, last):
            start = j * wide - begin
            for i in range(min(wide, end - j * wide)):
                panels[j, p, i] = row[start + i]
        tick(2 * (end - begin))


@jit
def _pack_transposed(w, first, last, panels, rows, short_rows):
    """Panels first to last of w^T, w (K,C), to panels (panels,C/2,wide) of pairs; `rows` (wide,C/2) of pairs are memory
    to work in, and `short_rows` the same memory as uint16.
    """
    wide = panels.shape[2]
    for j in range(first, last):
        part = w[j * wide:(j + 1) * wide]
        _shorten(part, short_rows)
        transpose(rows[:part.shape[0]], panels[j, :, :part.shape[0]])
        tick(part.size)


def pack(w, transposed, first, last, panels):
    """Panels first to last of w (C,K), or of w^T if transposed, to panels (panels,C/2,wide) of pairs."""
    if transposed:
        rows = scratch.array("rows", panels.shape[:0:-1])
        _pack_transposed(w, first, last, panels, rows, rows.view(np.uint16))
    else:
        row = scratch.array("row", (w.shape[1],))
        _pack(w, first, last, panels, row, row.view(np.uint16).reshape(1, -1))


PAIRS = packed.Numbers(2, amx.pairs_in_rows_tile, pack)


@jit
def _summed(tile, x, dy, dw, x_pairs, dy_pairs, first, last):
    """Rows first to last of dw = x^T dy; the pairs are memory for pairs of rows of x and dy, seen as uint16."""
    wide, (M, K) = tile.columns, dy.shape
    a, a_k, b, b_k = x_pairs.ctypes.data, x_pairs.strides[0], dy_pairs.ctypes.data, dy_pairs.strides[0]
    for c in range(first, last, CHANNELS):
        count = min(CHANNELS, last - c)
        for m in range(0, M, 2 * PIXELS):
            rows = min(2 * PIXELS, M - m)
            interleave(x[m:m + rows, c:c + count], x_pairs)
            interleave(dy[m:m + rows], dy_pairs)
            for j in range(-(-K // wide)):
                panel = b + j * wide * FLOAT
                multiply(tile, count, min(wide, K - j * wide), (rows + 1) // 2, (a, FLOAT, a_k), (panel, b_k),
                         (dw[c, j * wide:].ctypes.data, dw.strides[0]), ACCUMULATE if m > 0 else 0, (panel, 0, 0))


def summed(x, dy, dw, first, last):
    """Rows first to last of dw (C,K) float32 = x^T dy, x (M,C), dy (M,K)."""
    both = (scratch.array(name, (PIXELS, padded_length(count))).view(np.uint16)
            for name, count in (("x", min(x.shape[1], CHANNELS)), ("dy", dy.shape[1])))
    _summed(micro.pairs_tile(), x, dy, dw, *both, first, last)


@jit
def _few_times(tile, x, w, bias, relu, y, part, short_part, first, last):
    """Columns first to last of y (M,K) float32 = x w, x (M,C/2) pairs; `short_part` is `part` as uint16."""
    (M, C), K, wide = x.shape, w.shape[1], tile.columns
    for c in range(0, C, SLICE):
        depth = min(SLICE, C - c)
        mode = (ACCUMULATE if c > 0 else 0) | (RELU if relu and c + depth == C else 0)
        a, b_k = x.ctypes.data + c * FLOAT, part.strides[0]
        for start in range(first, last, WIDTH):
            end = min(last, start + WIDTH)
            interleave(w[2 * c:2 * (c + depth), start:end], short_part)
            for k in range(start, end, wide):
                b = part.ctypes.data + (k - start) * FLOAT
                call(tile.address, (M, min(wide, end - k), depth, a, C * FLOAT, FLOAT, b, b_k,
                                    y.ctypes.data + k * FLOAT, K * FLOAT, 1, tile.zero, tile.zero, mode,
                                    bias.ctypes.data + k * FLOAT if bias.size else 0, b, 0, 0))


def few_times(x, w, bias, relu, y):
    """y (M,K) = x (M,C) w (C,K) + bias, clipped at zero if `relu`; an empty bias is none."""
    tile, pairs, total, K = amx.pairs_in_rows_tile(), along_rows(x), scratch.array("total", y.shape), w.shape[1]

    def work(first, last):
        part = scratch.array("part", (SLICE, padded_length(WIDTH)))
        _few_times(tile, pairs, w, bias, relu, total, part, part.view(np.uint16), first * LINE, min(K, last * LINE))

    parallel_for(-(-K // LINE), work)
    convert_rows(total, y)


def few_times_transposed(x, w, y):
    """y (M,K) = x (M,C) w^T, w (K,C)."""
    few_rows.times_transposed(amx.pairs_in_rows_tile(), along_rows(x), along_rows(w, "weights"), y)


def few_summed(x, dy, dw):
    """dw (C,K), float32 or uint16, = x^T dy, x (M,C), dy (M,K), of rows that make one sum."""
    both = [scratch.array(name, (-(-len(part) // 2), part.shape[1])) for name, part in (("x", x), ("dy", dy))]
    for part, pairs in zip((x, dy), both, strict=True):
        down_columns(part[None], pairs.view(np.uint16)[None])
    parallel_for(len(dw), lambda first, last: few_rows.summed(micro.pairs_tile(), *both, dw, first, last))
