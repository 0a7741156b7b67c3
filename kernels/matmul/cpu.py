"""The three products of a layer on the register tile: x w, dy w^T and x^T dy. Convolutions of 1x1 are these too.

With few rows the weights are the traffic: each is read once, in order. With many, panels of weights are packed and
stay in cache; what comes from memory, or goes there, is fetched while the tile computes.
"""

import numpy as np
from numba import njit

from kernels import micro, scratch
from kernels.micro import ACCUMULATE, RELU, multiply
from kernels.progress import tick
from kernels.threads import share
from kernels.vectors import call

FLOAT = 4
SUMMED = 1024  # products in one go: the rounding error grows with the longest sum
FEW = 64  # rows for which packing weights costs more than it brings
SLICE = 128  # rows of weights multiplied before y is touched again: a panel of them fits L1
AHEAD = 2  # panels to fetch: the hardware does not follow a walk down the columns
ROWS = 112  # rows of x for which a panel is used before the next
PACKED = 2 << 20  # bytes of weights packed at a time: they are read from L2, or L3, once for every ROWS
CROWDED = 4096  # bytes from one row of x to the next, or a multiple: all of them would share the same sets of L1
PIXELS, CHANNELS = 128, 1024  # of x in a gradient by weights: a part of it that stays in L2

NONE = np.zeros(0, np.float32)
jit = njit(nogil=True, cache=True)


@jit
def transpose(source, target):
    """target[k, c] = source[c, k], in squares of a constant size that the compiler unrolls into shuffles."""
    C, K = source.shape
    c4, k4 = C // 4 * 4, K // 4 * 4
    for k in range(0, k4, 4):
        for c in range(0, c4, 4):
            for i in range(4):
                for j in range(4):
                    target[k + i, c + j] = source[c + j, k + i]
    for k in range(K):
        for c in range(c4 if k < k4 else 0, C):
            target[k, c] = source[c, k]


@jit
def copy(source, target):
    """target[i, :] = source[i, :], line by line; either may have room between its lines."""
    for i in range(source.shape[0]):
        a, b = source[i], target[i]
        for e in range(a.size):
            b[e] = a[e]


# Many rows: y = x w


@jit
def _pack(w, turned, first, last, packed):
    """Panels first to last of w (C,K), or of w^T if turned, to packed (panels, C, wide); a short one is not filled."""
    wide = packed.shape[2]
    if turned:
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
def _sweep(tile, x, packed, bias, mode, y, x_copy, first, last):
    """Rows first to last of y = x times packed panels; `mode` as the tile knows it."""
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
                soon = following, y_row, -(-rows // tiles) * y_row
            else:
                soon = x.ctypes.data + (m + rows) * x_row + j * tiles * depth * fetched, fetched, depth * fetched
            call(tile.address, (rows, min(wide, K - j * wide), depth, a, a_row, FLOAT,
                                packed[j].ctypes.data, wide * FLOAT, c, y_row, 1, tile.zero, tile.zero, mode,
                                bias[j * wide:].ctypes.data if bias.size else 0, *soon))


def _many(x, w, turned, bias, relu, y, more):
    """y (M,K) = x (M,C) w, with w (C,K), or (K,C) if turned."""
    (M, C), K, tile = x.shape, y.shape[1], micro.tile()
    wide = tile.columns
    chunk = -(-C // -(-C // SUMMED))
    width = max(1, PACKED // (chunk * wide * FLOAT)) * wide
    for k in range(0, K, width):
        target, end = y[:, k:k + width], min(K, k + width)
        for c in range(0, C, chunk):
            part = w[k:end, c:c + chunk] if turned else w[c:c + chunk, k:end]
            rows = x[:, c:c + chunk]
            packed = scratch.array("packed", (-(-(end - k) // wide), rows.shape[1], wide))
            mode = (ACCUMULATE if more or c > 0 else 0) | (RELU if relu and c + chunk >= C else 0)

            def pack(first, last, part=part, packed=packed):
                _pack(part, turned, first, last, packed)

            def sweep(first, last, rows=rows, packed=packed, begin=bias[k:end], mode=mode, target=target):
                x_copy = scratch.array("x", (ROWS, spread(rows.shape[1])))
                _sweep(tile, rows, packed, begin, mode, target, x_copy, first, last)

            share(len(packed), pack)
            share(M, sweep)


# Few rows


@jit
def _few(tile, x, w, bias, relu, y, more, first, last):
    """Panels first to last of y = x w, w where it is."""
    wide = tile.columns
    (M, C), K = x.shape, w.shape[1]
    for c in range(0, C, SLICE):
        depth = min(SLICE, C - c)
        mode = (ACCUMULATE if more or c > 0 else 0) | (RELU if relu and c + depth == C else 0)
        for k in range(first * wide, min(K, last * wide), wide):
            b = w.ctypes.data + (c * K + k) * FLOAT
            call(tile.address, (M, min(wide, K - k), depth, x.ctypes.data + c * FLOAT, C * FLOAT, FLOAT, b, K * FLOAT,
                                y.ctypes.data + k * FLOAT, K * FLOAT, 1, tile.zero, tile.zero, mode,
                                bias.ctypes.data + k * FLOAT if bias.size else 0, b + AHEAD * wide * FLOAT,
                                K * FLOAT, 0))


@jit
def _few_turned(tile, panels, w, part, y, first, last):
    """Columns first to last of y^T = w x^T, tile by tile: so the rows of the tile are rows of w, read where they are.

    panels (M/wide, C, wide) is x^T.
    """
    wide, (M, C) = tile.columns, (y.shape[0], w.shape[1])
    tall = tile.rows // 2 if C * FLOAT % CROWDED == 0 else tile.rows  # no more than the ways of a set
    for k in range(first, last, tall):
        rows = min(tall, last - k)
        for j in range(panels.shape[0]):
            width = min(wide, M - j * wide)
            for c in range(0, C, SUMMED):
                a = w.ctypes.data + (k * C + c) * FLOAT
                multiply(tile, rows, width, min(SUMMED, C - c), (a, C * FLOAT, FLOAT),
                         (panels[j, c:].ctypes.data, wide * FLOAT), (part.ctypes.data, wide * FLOAT),
                         ACCUMULATE if c > 0 else 0, (a, 0, 0))
            for m in range(width):
                for i in range(rows):
                    y[j * wide + m, k + i] = part[i, m]


@jit
def _few_summed(tile, x, dy, dw, first, last):
    """Rows first to last of dw = x^T dy, tile by tile: dw is written in order."""
    tall, wide = tile.rows, tile.columns
    (M, C), K = x.shape, dy.shape[1]
    for c in range(first, last, tall):
        for k in range(0, K, wide):
            target = dw.ctypes.data + (c * K + k) * FLOAT
            multiply(tile, min(tall, last - c), min(wide, K - k), M, (x.ctypes.data + c * FLOAT, FLOAT, C * FLOAT),
                     (dy.ctypes.data + k * FLOAT, K * FLOAT), (target, K * FLOAT), 0,
                     (target + AHEAD * wide * FLOAT, K * FLOAT, 0))


# Many rows: dw = x^T dy


@jit
def _summed(tile, x, dy, dw, x_copy, dy_copy, first, last):
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


def spread(floats):
    """An odd number of cache lines for so many floats: then lines that far apart do not share the sets of a cache."""
    lines = -(-floats // 16)
    return 16 * (lines + 1 - lines % 2)


def times(x, w, bias, relu, y, more=False):
    """y (M,K) = x (M,C) w (C,K) + bias, and + y if `more`, clipped at zero if `relu`; an empty bias is none."""
    tile = micro.tile()
    if len(x) > FEW:
        _many(x, w, False, bias, relu, y, more)
    else:
        share(-(-w.shape[1] // tile.columns), lambda first, last: _few(tile, x, w, bias, relu, y, more, first, last))


def times_turned(x, w, y):
    """y (M,K) = x (M,C) w^T, w (K,C)."""
    (M, C), tile = x.shape, micro.tile()
    if M > FEW:
        _many(x, w, True, NONE, False, y, False)
        return
    panels = scratch.array("panels", (-(-M // tile.columns), C, tile.columns))
    _pack(x, True, 0, len(panels), panels)

    def work(first, last):
        part = scratch.array("part", (tile.rows, tile.columns))
        _few_turned(tile, panels, w, part, y, first, last)

    share(len(w), work)


def summed(x, dy, dw):
    """dw (C,K) = x^T dy, x (M,C), dy (M,K)."""
    (M, C), K, tile = x.shape, dy.shape[1], micro.tile()

    def few(first, last):
        _few_summed(tile, x, dy, dw, first, last)

    def many(first, last):
        _summed(tile, x, dy, dw, *_copies(C, K), first, last)

    if M > FEW and x.strides[0] * 2 % CROWDED == 0 and K * 4 <= C:  # then the narrow one had better be the rows
        turned = scratch.array("turned", (K, C))
        summed(dy, x, turned)
        transpose(turned, dw)
    else:
        share(C, few if M <= FEW else many)


def _copies(C, K):
    return scratch.array("x", (PIXELS, spread(min(C, CHANNELS)))), scratch.array("dy", (PIXELS, spread(K)))


# Batches of matrices


@jit
def _batch(tile, a, b, turned, c, packed, a_copy, first, last):
    """Matrices first to last of c = a b, or a b^T."""
    K = a.shape[2]
    for i in range(first, last):
        for k in range(0, K, SUMMED):
            part = b[i, :, k:k + SUMMED] if turned else b[i, k:k + SUMMED]
            panels = packed[:, :min(SUMMED, K - k)]
            _pack(part, turned, 0, len(packed), panels)
            _sweep(tile, a[i, :, k:k + SUMMED], panels, NONE, ACCUMULATE if k > 0 else 0, c[i], a_copy, 0, c.shape[1])


@jit
def _batch_summed(tile, a, b, turned, c, flat, a_copy, b_copy, first, last):
    """Matrices first to last of c = a^T b, or a^T b^T."""
    for i in range(first, last):
        if turned:
            transpose(b[i], flat)
            _summed(tile, a[i], flat, c[i], a_copy, b_copy, 0, c.shape[1])
        else:
            _summed(tile, a[i], b[i], c[i], a_copy, b_copy, 0, c.shape[1])


def matmul(a, transpose_a, b, transpose_b, c):
    """c (B,M,N) = a b, a (B,M,K) or (B,K,M) if transposed, b (B,K,N) or (B,N,K)."""
    tile, (count, M, N) = micro.tile(), c.shape
    K = a.shape[1] if transpose_a else a.shape[2]

    def forward(first, last):
        packed = scratch.array("packed", (-(-N // tile.columns), min(SUMMED, K), tile.columns))
        a_copy = scratch.array("x", (ROWS, spread(min(SUMMED, K))))
        _batch(tile, a, b, transpose_b, c, packed, a_copy, first, last)

    def backward(first, last):
        flat = scratch.array("flat", (K, N) if transpose_b else (1, 1))
        _batch_summed(tile, a, b, transpose_b, c, flat, *_copies(M, N), first, last)

    if count == 1 and not transpose_a:
        times_turned(a[0], b[0], c[0]) if transpose_b else times(a[0], b[0], NONE, False, c[0])
    elif count == 1 and not transpose_b:
        summed(a[0], b[0], c[0])
    else:
        share(count, backward if transpose_a else forward)
