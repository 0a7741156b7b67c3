"""Depthwise convolution: each channel has a filter of its own.

A row of the micro-kernel's tile is a pixel, its columns are channels, and each channel of A meets that of B only. A
band of image rows at a time is copied, with its border and as float32, to where it stays in cache, in panels of as many
channels as the tile has columns: each panel is one stretch of memory, read from the first pixel to the last.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from kernels import compiled, micro, scratch
from kernels.bfloat16 import widen
from kernels.conv2d.pixels import CACHED, FLOAT, phase, phases
from kernels.hints import adjacent, restrict
from kernels.micro import ACCUMULATE, BFLOAT16, RELU
from kernels.threads import parallel_for
from kernels.vectors import call

SUMMED = 1024  # products in one go, about: the rounding error grows with the longest sum
NONE = np.zeros(0, np.float32)

jit, inner = compiled.decorators()


class Window(NamedTuple):
    """A filter that moves over an image; all are pairs, of rows and columns.

    taps     how many, beginning with the tap `tap` of the weights
    start    the pixel of the image that the first tap meets in the first place
    target   the pixel of the result that it makes there
    size     how many places there are
    """

    taps: tuple
    tap: tuple
    start: tuple
    target: tuple
    size: tuple


class Steps(NamedTuple):
    """From one place of a window to the next, in the image and in the result, and from one tap to the next, in the
    image and in the weights; all are pairs.
    """

    image: tuple
    result: tuple
    apart: tuple
    every: tuple


@jit
def _copy(image, first, left, band, rows):
    """So many rows of an image (H,W,C) from row `first` and column `left` on, zero outside, into band (panels, rows,
    columns, wide) as float32.
    """
    (H, W, _), (_, _, columns, wide), band = image.shape, band.shape, restrict(band)
    for i in range(rows):
        h = first + i
        begin = min(columns, max(0, -left)) if 0 <= h < H else columns
        end = max(begin, min(columns, W - left))
        band[:, i, :begin] = 0
        band[:, i, end:] = 0
        for q in range(begin, end):
            for j in range(band.shape[0]):
                source = adjacent(image[h, left + q, j * wide:(j + 1) * wide])
                target = adjacent(band[j, i, q])
                for c in range(source.size):
                    target[c] = widen(source[c])


def _room(name, rows, columns, C):
    """Memory for so many rows of an image in panels."""
    wide = micro.columns_tile().columns
    return scratch.array(name, (-(-C // wide), rows, columns, wide))


def _band(places, C, step, reach, columns):
    """(room for what rows of places need, of how many): as many as stay in cache, or one."""
    rows = max(reach, min((places - 1) * step + reach, CACHED // (columns * C * FLOAT)))
    return _room("band", rows, columns, C), (rows - reach) // step + 1


def _panels(w):
    """Filters (R,S,1,C) as (panels, R, S, wide)."""
    R, S, _, C = w.shape
    panels = _room("taps", R, S, C)
    _copy(w.reshape(R, S, C), 0, 0, panels, R)
    return panels


@inner
def _pairs(window):
    """The pairs of one (5,2)."""
    return ((window[0, 0], window[0, 1]), (window[1, 0], window[1, 1]), (window[2, 0], window[2, 1]),
            (window[3, 0], window[3, 1]), (window[4, 0], window[4, 1]))


@jit
def _sweep(tile, x, w, windows, steps, bias, relu, y, band, most, reach, first, last):
    """Rows of places first to last, of all images, for all windows, an array (windows,5,2) in the order of Window.

    The band has room for what `most` of them need.
    """
    (step_y, step_x), (down, across), (apart_y, apart_x), (every_y, every_x) = steps
    (_, rows, columns, wide), (_, OH, OW, C), each, S_all = band.shape, y.shape, y.itemsize, w.shape[2]
    pixel, places = wide * FLOAT, windows[:, 4, 0].max()
    y0, x0 = windows[:, 2, 0].min(), windows[:, 2, 1].min()
    taps = np.arange(windows[:, 0, 0].max())
    x_taps, w_taps = taps * (apart_y * columns * pixel), taps * (every_y * S_all * pixel)
    mode = (RELU if relu else 0) | (BFLOAT16 if each < FLOAT else 0)
    while first < last:
        n, p = first // places, first % places
        count = min(most, places - p, last - first)
        _copy(x[n], y0 + p * step_y, x0, band, (count - 1) * step_y + reach)
        for i in range(count):
            for window in windows:
                (R, S), (r, s), (row, column), (h, v), (P, Q) = _pairs(window)
                if p + i >= P:
                    continue
                for j in range(band.shape[0]):
                    c, start = min(wide, C - j * wide), bias[j * wide:].ctypes.data if bias.size else 0
                    a = band.ctypes.data + ((j * rows + row - y0 + i * step_y) * columns + column - x0) * pixel
                    b = w.ctypes.data + ((j * w.shape[1] + r) * S_all + s) * pixel
                    target = y.ctypes.data + (((n * OH + h + (p + i) * down) * OW + v) * C + j * wide) * each
                    call(tile.address, (Q, c, S, a, step_x * pixel, apart_x * pixel, b, every_x * pixel, target,
                                        across * C * each, R, x_taps.ctypes.data, w_taps.ctypes.data, mode, start,
                                        target + wide * each, across * C * each, tile.rows * across * C * each))
        first += count


@functools.lru_cache(1 << 12)
def _plan(windows, step, apart):
    """(array (windows,5,2), rows that a row of places reaches over, rows of places, columns that they reach over)."""
    numbers = np.array(windows)
    taps, _, start, _, size = numbers.transpose(1, 0, 2)
    begin, end = start.min(0), start + (taps - 1) * apart + 1  # of all windows in their first places
    reach, columns = int(end[:, 0].max() - begin[0]), int((end + (size - 1) * step)[:, 1].max() - begin[1])
    return numbers, reach, int(size[:, 0].max()), columns


def _convolve(x, w, windows, steps, bias, relu, y):
    """y = conv(x, w) + bias, the places of each Window in `windows`."""
    numbers, reach, places, columns = _plan(windows, steps.image, steps.apart)
    tile, panels = micro.columns_tile(), _panels(w)

    def work(first, last):
        band, most = _band(places, x.shape[3], steps.image[0], reach, columns)
        _sweep(tile, x, panels, numbers, steps, bias, relu, y, band, most, reach, first, last)

    parallel_for(len(x) * places, work)


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; an empty bias is none."""
    stride, ((top, _), (left, _)), dilation, _ = geometry
    window = Window(w.shape[:2], (0, 0), (-top, -left), (0, 0), y.shape[1:3])
    _convolve(x, w, (window,), Steps(stride, (1, 1), dilation, (1, 1)), bias, relu, y)


def _axis(taps, size, stride, before, dilation):
    """Along one axis of the gradient by the input: ([numbers of each window in the order of Window], apart, every).

    Taps are met from the last to the first.
    """
    found = [(tap, *phase(tap, taps, stride, before, dilation)) for tap in range(phases(taps, stride, dilation))]
    numbers = [(count, tap + (count - 1) * every, start, first, -(-(size - first) // stride))
               for tap, first, start, count, every, _ in found if first < size]
    return numbers, found[0][-1], -found[0][-2]


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx: a convolution with the filter flipped, a window for each phase of the stride."""
    (H, W), (stride, ((top, _), (left, _)), dilation, _) = dx.shape[1:3], geometry
    axes = [_axis(*each) for each in zip(w.shape[:2], (H, W), stride, (top, left), dilation, strict=True)]
    (rows, columns), apart, every = zip(*axes, strict=True)
    windows = tuple(Window(*zip(*both, strict=True)) for both in itertools.product(rows, columns))
    if len(windows) < min(stride[0], H) * min(stride[1], W):
        dx[:] = 0
    if windows:
        _convolve(dy, w, windows, Steps((1, 1), stride, apart, every), NONE, False, dx)


@jit
def _sum(tile, x, dy, dw, geometry, band, most, lines, first, last):
    """dw (N, panels, R, S, wide), the gradient of each image, from `first` to `last`.

    The band has room for what `most` rows of dy need, `lines` for some rows of dy.
    """
    (step_y, step_x), ((top, _), (left, _)), (apart_y, apart_x), _ = geometry
    (_, panels, R, S, wide), (P, Q, C), columns = dw.shape, dy.shape[1:], band.shape[2]
    pixel, most = wide * FLOAT, min(lines.shape[1], most)
    x_lines, dy_lines = np.arange(most) * (step_y * columns * pixel), np.arange(most) * (Q * pixel)
    for n in range(first, last):
        dw[n] = 0
        for p in range(0, P, most):
            count = min(most, P - p)
            _copy(x[n], p * step_y - top, -left, band, (count - 1) * step_y + (R - 1) * apart_y + 1)
            _copy(dy[n], p, 0, lines, count)
            for j in range(panels):
                b = lines[j].ctypes.data
                for r in range(R):
                    call(tile.address, (S, min(wide, C - j * wide), Q, band[j, r * apart_y].ctypes.data,
                                        apart_x * pixel, step_x * pixel, b, pixel, dw[n, j, r].ctypes.data, pixel,
                                        count, x_lines.ctypes.data, dy_lines.ctypes.data, ACCUMULATE, 0, b, 0, 0))


@jit
def _add(each, dw):
    """dw (R,S,C) = the sum of each (N, panels, R, S, wide)."""
    wide = each.shape[4]
    dw[:] = 0
    for n in range(len(each)):
        for j in range(each.shape[1]):
            for r in range(dw.shape[0]):
                for s in range(dw.shape[1]):
                    target = adjacent(dw[r, s, j * wide:(j + 1) * wide])
                    source = adjacent(each[n, j, r, s])
                    for c in range(target.size):
                        target[c] += source[c]


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw: the sum of those of all images, in their order."""
    (R, S, _, C), (N, P, Q, _), (stride, _, dilation, _) = dw.shape, dy.shape, geometry
    reach, columns = (R - 1) * dilation[0] + 1, (Q - 1) * stride[1] + (S - 1) * dilation[1] + 1
    tile, wide = micro.columns_tile(), micro.columns_tile().columns
    each = scratch.array("dw", (N, -(-C // wide), R, S, wide))

    def work(first, last):
        band, most = _band(P, C, stride[0], reach, columns)
        lines = _room("lines", min(P, max(1, SUMMED // Q)), Q, C)
        _sum(tile, x, dy, each, geometry, band, most, lines, first, last)

    parallel_for(N, work)
    _add(each, dw.reshape(R, S, C))
