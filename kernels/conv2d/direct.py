"""Convolution by the micro-kernel. Images stay channels-last and in place: there is no im2col buffer.

A row of its tile is a pixel, its stride the distance of neighbouring output pixels. Without groups the S taps of a
filter row are neighbours in memory, so one block of the tile is a whole filter row and R blocks are the filter.
"""

import numpy as np

from kernels import compiled, micro
from kernels.conv2d import taps
from kernels.conv2d.pixels import CACHED, FLOAT, inside, pad, phase, phases, with_border
from kernels.layout import transpose
from kernels.micro import ACCUMULATE, BFLOAT16, RELU
from kernels.threads import parallel_for
from kernels.vectors import call

WIDE = 128  # channels of which a matrix product for each tap is worth its gathering
SUMMED = 1024  # products in one go, about: the rounding error grows with the longest sum
PIXELS = 256  # of a gradient by weights, summed before the next tile: a panel of so many pixels of dy stays in L1

jit, inner = compiled.decorators()


@inner
def _taps(R, S, C, row, group, apart):
    """Byte offsets, in the image and in a panel of weights, of the runs of memory a filter reads; and their length.

    apart   rows and pixels from one tap to the next
    """
    if group == C and apart[1] == 1:
        runs, depth = 1, S * C
    else:
        runs, depth = S, group
    image, panel = np.empty(R * runs, np.intp), np.empty(R * runs, np.intp)
    for r in range(R):
        for s in range(runs):
            image[r * runs + s] = r * apart[0] * row + s * apart[1] * C * FLOAT
            panel[r * runs + s] = (r * runs + s) * depth
    return image, panel, depth


@inner
def _sweep(tile, a, a_strides, image_taps, rows, b, panel_taps, depth, c, c_strides, bias, relu, N, P, Q, K, each):
    """Output pixels (N,P,Q) with K channels at address c, from pixels at address a and packed weights at b.

    rows   (where in an image the first row of taps begins, by how many it moves, rows of taps, from each to the next,
           rows before and up to the end of those that are no border): in the border taps are left out
    each   bytes of an output number: 4, or 2 of bfloat16, which rounds more than the longest sum does
    """
    top, step, R, apart, begin, end = rows
    wide, short = tile.columns, BFLOAT16 if each < FLOAT else 0
    (a_n, a_p, a_q), (c_n, c_p, c_q) = a_strides, c_strides
    together = panel_taps.size if short else max(1, SUMMED // depth)
    lines = N * P
    block = max(1, CACHED // a_p)
    panel = depth * panel_taps.size * wide * FLOAT
    for start in range(0, lines, block):
        for k in range(0, K, wide):
            for line in range(start, min(start + block, lines)):
                n, p = line // P, line % P
                first, last = inside(top + p * step, apart, R, begin, end)
                first, last = (first, last) if first < last else (0, R)  # something has to be written
                first, taps = first * panel_taps.size // R, last * panel_taps.size // R
                for t in range(first, taps, together):
                    mode = (ACCUMULATE if t > first else 0) | (RELU if relu and t + together >= taps else 0) | short
                    call(tile.address, (Q, min(wide, K - k), depth, a + n * a_n + p * a_p, a_q, FLOAT,
                                        b + k // wide * panel, wide * FLOAT, c + n * c_n + p * c_p + k * each, c_q,
                                        min(together, taps - t), image_taps[t:].ctypes.data,
                                        panel_taps[t:].ctypes.data, mode, bias + k * FLOAT if bias else 0, b, 0, 0))


@inner
def _pack(w, groups, wide):
    """Weights (R,S,C,K) as (groups, panels, R, S, C, wide), the last panel filled up with zeros."""
    R, S, C, K = w.shape
    K //= groups
    panels = -(-K // wide)
    packed = np.zeros((groups, panels, R, S, C, wide), np.float32)
    for g in range(groups):
        for j in range(panels):
            first = g * K + j * wide
            width = min(wide, K - j * wide)
            for r in range(R):
                for s in range(S):
                    for c in range(C):
                        for k in range(width):
                            packed[g, j, r, s, c, k] = w[r, s, c, first + k]
    return packed


@inner
def _pack_phase(w, groups, wide, r0, s0, every):
    """The taps r0, r0+every, ... x s0, s0+every, ... flipped and transposed, packed like weights from K to C channels.
    """
    R, S, C, K = w.shape
    K //= groups
    (down, across), panels = every, -(-C // wide)
    rows, columns = -(-(R - r0) // down), -(-(S - s0) // across)
    packed = np.zeros((groups, panels, rows, columns, K, wide), np.float32)
    for g in range(groups):
        for j in range(panels):
            for r in range(rows):
                for s in range(columns):
                    tap = w[r0 + down * (rows - 1 - r), s0 + across * (columns - 1 - s)]
                    transpose(tap[j * wide:min(C, (j + 1) * wide), g * K:(g + 1) * K], packed[g, j, r, s])
    return packed


@jit
def sweep_images(tile, x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; where x and w have pairs of bfloat16, y is uint16."""
    (sh, sw), ((top, bottom), (left, right)), dilation, groups = geometry
    N, H, W, C = x.shape
    R, S, Cg, K = w.shape
    P, Q = y.shape[1:3]
    packed = _pack(w, groups, tile.columns)
    bordered = top + bottom + left + right > 0
    buffer = with_border(x, top, bottom, left, right)  # not `images`: x may be read-only
    images = buffer if bordered else x
    each = y.itemsize
    c_n, c_p, c_q = P * Q * K * each, Q * K * each, K * each
    row = images.shape[2] * C * FLOAT
    image_taps, panel_taps, depth = _taps(R, S, C, row, Cg, dilation)
    panel_taps *= tile.columns * FLOAT
    for n in range(0, N, images.shape[0]):
        count = min(images.shape[0], N - n)
        if bordered:
            pad(x[n:n + count], buffer, top, left)
        for g in range(groups):
            first = g * (K // groups)
            _sweep(tile, images.ctypes.data + g * Cg * FLOAT, (images.shape[1] * row, sh * row, sw * C * FLOAT),
                   image_taps, (0, sh, R, dilation[0], top, top + H),
                   packed[g].ctypes.data, panel_taps, depth, y.ctypes.data + n * c_n + first * each,
                   (c_n, c_p, c_q), bias.ctypes.data + first * FLOAT if bias.size else 0, relu, count, P, Q,
                   K // groups, each)


@jit
def sweep_gradients(tile, dy, w, dx, geometry):
    """A convolution with stride 1 for each phase of the stride: the pixels of dx that the same taps reach."""
    (sh, sw), ((top, _), (left, _)), (dilation_y, dilation_x), groups = geometry
    N, H, W, C = dx.shape
    R, S, Cg, K = w.shape
    P, Q = dy.shape[1:3]
    above, before = (R - 1) * dilation_y // sh, (S - 1) * dilation_x // sw
    below, after = max(0, (H - 1 + top) // sh - P + 1), max(0, (W - 1 + left) // sw - Q + 1)
    bordered = above + below + before + after > 0
    buffer = with_border(dy, above, below, before, after)  # not `images`: dy may be read-only
    images = buffer if bordered else dy
    row = images.shape[2] * K * FLOAT
    each = dx.itemsize
    c_n = H * W * C * each
    if phases(R, sh, dilation_y) < sh or phases(S, sw, dilation_x) < sw:
        dx[:] = 0
    for r0 in range(phases(R, sh, dilation_y)):
        for s0 in range(phases(S, sw, dilation_x)):
            h, y0, rows, every_y, apart_y = phase(r0, R, sh, top, dilation_y)
            v, x0, columns, every_x, apart_x = phase(s0, S, sw, left, dilation_x)
            packed = _pack_phase(w, groups, tile.columns, r0, s0, (every_y, every_x))
            image_taps, panel_taps, depth = _taps(rows, columns, K, row, K // groups, (apart_y, apart_x))
            panel_taps *= tile.columns * FLOAT
            for n in range(0, N if h < H and v < W else 0, images.shape[0]):
                count = min(images.shape[0], N - n)
                if bordered:
                    pad(dy[n:n + count], buffer, above, before)
                for g in range(groups):
                    begin = (y0 + above) * row + ((x0 + before) * K + g * (K // groups)) * FLOAT
                    _sweep(tile, images.ctypes.data + begin,
                           (images.shape[1] * row, row, K * FLOAT), image_taps,
                           (y0 + above, 1, rows, apart_y, above, above + P), packed[g].ctypes.data, panel_taps, depth,
                           dx.ctypes.data + n * c_n + ((h * W + v) * C + g * Cg) * each,
                           (c_n, sh * W * C * each, sw * C * each), 0, False,
                           count, -(-(H - h) // sh), -(-(W - v) // sw), Cg, each)


@inner
def _seen(start, lines, P, first, step, H, strides, a_lines, b_lines):
    """How many of so many lines of dy, from `start` on, a row of taps meets inside images of H rows, and their offsets
    in x and dy. In the first line of an image it meets row `first`.
    """
    count, (image, row, line) = 0, strides
    for i in range(lines):
        n, p = (start + i) // P, (start + i) % P
        if 0 <= first + p * step < H:
            a_lines[count], b_lines[count] = n * image + p * row, i * line
            count += 1
    return count


@jit
def sum_pixels(tile, x, dy, dw, geometry, more, first, last):
    """Panels first to last, of all groups, of dw: rows of the tile are the (s, c) of a filter row, columns are k.

    The sum runs over pixels, a few lines at once; it is added to dw if `more`.
    """
    wide, (N, H, _, C) = tile.columns, x.shape
    (sh, sw), ((top, bottom), (left, right)), (dilation_y, dilation_x), groups = geometry
    (R, S, Cg, K), (P, Q) = dw.shape, dy.shape[1:3]
    bordered = top + bottom + left + right > 0
    buffer = with_border(x, top, bottom, left, right)  # not `images`: x may be read-only
    images = buffer if bordered else x
    row, image = images.shape[2] * C * FLOAT, images.shape[1] * images.shape[2] * C * FLOAT
    per_buffer = images.shape[0] if bordered else N
    runs, length = (1, S * C) if groups == 1 and dilation_x == 1 else (S, Cg)
    block, Kg = max(1, PIXELS // Q), K // groups
    panels = -(-Kg // wide)
    a_lines, b_lines, counts = np.empty((R, block), np.intp), np.empty((R, block), np.intp), np.zeros(R, np.intp)
    begun = np.full(R, more)  # whether a row of taps has met anything: of one that never does, dw is not written
    for n in range(0, N, per_buffer):
        count = min(per_buffer, N - n)
        if bordered:
            pad(x[n:n + count], buffer, top, left)
        for start in range(0, count * P, block):
            lines = min(block, count * P - start)
            pixel = (n * P + start) * Q
            for r in range(R):
                counts[r] = _seen(start, lines, P, r * dilation_y - top, sh, H, (image, sh * row, Q * K * FLOAT),
                                  a_lines[r], b_lines[r])
            for panel in range(first, last):
                g, k = panel // panels, panel % panels * wide
                width, k = min(wide, Kg - k), g * Kg + k
                for r in range(R):
                    for s in range(runs if counts[r] > 0 else 0):
                        tap = r * dilation_y * row + (s * dilation_x * C + g * Cg) * FLOAT
                        call(tile.address, (length, width, Q, images.ctypes.data + tap, FLOAT, sw * C * FLOAT,
                                            dy.ctypes.data + (pixel * K + k) * FLOAT, K * FLOAT,
                                            dw.ctypes.data + ((r * S + s) * Cg * K + k) * FLOAT, K * FLOAT,
                                            counts[r], a_lines[r].ctypes.data, b_lines[r].ctypes.data,
                                            ACCUMULATE if begun[r] else 0, 0, dy.ctypes.data, 0, 0))
            begun |= counts > 0


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; an empty bias is none."""
    tile = micro.tile()
    short = geometry.groups == 1 and y.shape[2] <= tile.rows // 2 and w.shape[2] >= WIDE
    if short or taps.wins(y.shape, w.shape, geometry.groups):
        taps.forward(x, w, bias, relu, y, geometry)
        return
    parallel_for(len(x), lambda first, last: sweep_images(tile, x[first:last], w, bias, relu, y[first:last],
                                                          geometry))


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx."""
    if taps.wins(dy.shape, w.shape, geometry.groups):
        taps.dgrad(dy, w, dx, geometry)
        return
    tile = micro.tile()
    parallel_for(len(dy), lambda first, last: sweep_gradients(tile, dy[first:last], w, dx[first:last],
                                                              geometry))


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw."""
    tile, (step, _), ((top, _), _), (apart, _) = micro.tile(), *geometry[:3]
    for r in range(len(dw)):
        first, end = inside(r * apart - top, step, dy.shape[1], 0, x.shape[1])
        if first == end:
            dw[r] = 0
    panels = geometry.groups * -(-dw.shape[3] // geometry.groups // tile.columns)
    parallel_for(panels, lambda first, last: sum_pixels(tile, x, dy, dw, geometry, False, first, last))
