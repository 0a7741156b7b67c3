"""Depthwise convolution: each channel has a filter of its own.

A row of the micro-kernel's tile is a pixel, its columns are channels, and each channel of A meets that of B only. A
band of image rows at a time is copied, with its border and as float32, to where it stays in cache.
"""

import itertools

import numpy as np

from kernels import compiled, micro, scratch
from kernels.conv2d.pixels import CACHED, FLOAT, gather, phase, phases
from kernels.micro import ACCUMULATE, BFLOAT16, RELU
from kernels.threads import parallel_for
from kernels.vectors import call

SUMMED = 1024  # products in one go, about: the rounding error grows with the longest sum
NONE = np.zeros(0, np.float32)

jit, inner = compiled.decorators()


def _band(P, Q, C, step, apart, taps):
    """Room for what so many output rows need, of P: as many as stay in cache, or one."""
    reach, columns = ((taps[axis] - 1) * apart[axis] + 1 for axis in (0, 1))
    columns += (Q - 1) * step[1]
    rows = min((P - 1) * step[0] + reach, max(reach, CACHED // (columns * C * FLOAT)))
    return scratch.array("band", (rows, columns, C))


@inner
def _rows(band, step, apart, taps):
    """How many output rows a band is enough for."""
    return (len(band) - (taps - 1) * apart - 1) // step + 1


@jit
def _sweep(tile, x, start, step, apart, w, w_strides, taps, bias, relu, y, y_strides, size, band, first, last):
    """Rows first to last of all images of y, each `size` pixels, at an address with strides of bytes.

    The filter, R x S `taps` at the address w, begins at pixel `start` of x and moves by `step`; its taps are `apart`.
    """
    (y0, x0), (step_y, step_x), (apart_y, apart_x), (R, S), (P, Q) = start, step, apart, taps, size
    (y_n, y_p, y_q, each), C, wide = y_strides, x.shape[3], tile.columns
    row = band.shape[1] * C * FLOAT
    x_taps, w_taps = np.arange(R) * (apart_y * row), np.arange(R) * w_strides[0]
    mode = (RELU if relu else 0) | (BFLOAT16 if each < FLOAT else 0)
    most = _rows(band, step_y, apart_y, R)
    while first < last:
        n, p = first // P, first % P
        count = min(most, P - p, last - first)
        gather(x[n], y0 + p * step_y, 0, -x0, 1, band[:(count - 1) * step_y + (R - 1) * apart_y + 1])
        for c in range(0, C, wide):
            for i in range(count):
                call(tile.address, (Q, min(wide, C - c), S, band[i * step_y, 0, c:].ctypes.data, step_x * C * FLOAT,
                                    apart_x * C * FLOAT, w + c * FLOAT, w_strides[1],
                                    y + n * y_n + (p + i) * y_p + c * each, y_q, R, x_taps.ctypes.data,
                                    w_taps.ctypes.data, mode, bias[c:].ctypes.data if bias.size else 0, w, 0, 0))
        first += count


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; an empty bias is none."""
    (R, S, _, C), (N, P, Q, _), each = w.shape, y.shape, y.itemsize
    step, ((top, _), (left, _)), apart, _ = geometry
    tile, strides = micro.columns_tile(), (P * Q * C * each, Q * C * each, C * each, each)

    def work(first, last):
        _sweep(tile, x, (-top, -left), step, apart, w.ctypes.data, (S * C * FLOAT, C * FLOAT), (R, S), bias, relu,
               y.ctypes.data, strides, (P, Q), _band(P, Q, C, step, apart, (R, S)), first, last)

    parallel_for(N * P, work)


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx: a convolution with the filter flipped, for each phase of the stride."""
    (R, S, _, C), (N, H, W, _), each, tile = w.shape, dx.shape, dx.itemsize, micro.columns_tile()
    (sh, sw), ((top, _), (left, _)), dilation, _ = geometry
    rows, columns = phases(R, sh, dilation[0]), phases(S, sw, dilation[1])
    if rows < sh or columns < sw:
        dx[:] = 0
    for r0, s0 in itertools.product(range(rows), range(columns)):
        h, y0, down, every_y, apart_y = phase(r0, R, sh, top, dilation[0])
        v, x0, across, every_x, apart_x = phase(s0, S, sw, left, dilation[1])
        taps, apart, size = (down, across), (apart_y, apart_x), (-(-(H - h) // sh), -(-(W - v) // sw))
        last_tap = w.ctypes.data + ((r0 + (down - 1) * every_y) * S + s0 + (across - 1) * every_x) * C * FLOAT
        target = dx.ctypes.data + (h * W + v) * C * each
        strides = H * W * C * each, sh * W * C * each, sw * C * each, each

        def work(first, last, start=(y0, x0), apart=apart, taps=taps, size=size, w=last_tap, target=target,
                 w_strides=(-every_y * S * C * FLOAT, -every_x * C * FLOAT), strides=strides):
            _sweep(tile, dy, start, (1, 1), apart, w, w_strides, taps, NONE, False, target, strides, size,
                   _band(*size, C, (1, 1), apart, taps), first, last)

        if min(size) > 0:
            parallel_for(N * size[0], work)


@jit
def _sum(tile, x, dy, dw, geometry, band, lines, first, last):
    """dw (N,R,S,1,C), the gradient of each image, from `first` to `last`; `lines` is room for rows of dy."""
    (step_y, step_x), ((top, _), (left, _)), (apart_y, apart_x), _ = geometry
    (_, R, S, _, C), (P, Q), wide = dw.shape, dy.shape[1:3], tile.columns
    row, most = band.shape[1] * C * FLOAT, min(len(lines), _rows(band, step_y, apart_y, R))
    x_lines, dy_lines = np.arange(most) * (step_y * row), np.arange(most) * (Q * C * FLOAT)
    for n in range(first, last):
        dw[n] = 0
        for p in range(0, P, most):
            count = min(most, P - p)
            gather(x[n], p * step_y - top, 0, left, 1, band[:(count - 1) * step_y + (R - 1) * apart_y + 1])
            gather(dy[n], p, 0, 0, 1, lines[:count])
            for c in range(0, C, wide):
                for r in range(R):
                    call(tile.address, (S, min(wide, C - c), Q, band[r * apart_y, 0, c:].ctypes.data,
                                        apart_x * C * FLOAT, step_x * C * FLOAT, lines[0, 0, c:].ctypes.data, C * FLOAT,
                                        dw[n, r, 0, 0, c:].ctypes.data, C * FLOAT, count, x_lines.ctypes.data,
                                        dy_lines.ctypes.data, ACCUMULATE, 0, lines.ctypes.data, 0, 0))


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw: the sum of those of all images, in their order."""
    (R, S, _, C), (N, P, Q, _), tile = dw.shape, dy.shape, micro.columns_tile()
    each = scratch.array("dw", (N, *dw.shape))

    def work(first, last):
        band = _band(P, Q, C, geometry.stride, geometry.dilation, (R, S))
        lines = scratch.array("lines", (min(P, max(1, SUMMED // Q)), Q, C))
        _sum(tile, x, dy, each, geometry, band, lines, first, last)

    parallel_for(N, work)
    np.sum(each, 0, out=dw)
