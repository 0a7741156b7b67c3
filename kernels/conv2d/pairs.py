"""Convolution of bfloat16, uint16 with its bits: direct.py on images whose elements are pairs of numbers.

Of a sum over channels these are two channels of a pixel, which lie together; of one over pixels, the gradient by the
weights, a channel of two pixels that the same tap meets one after the other. The channels of a group are even, or there
is one group.
"""

import numpy as np

from kernels import amx, compiled, micro, scratch
from kernels.conv2d import direct
from kernels.conv2d.pixels import BORDERLESS, CACHED, FLOAT
from kernels.matmul.pairs import along_rows, down_columns, shorten
from kernels.progress import tick
from kernels.threads import parallel_for

jit, inner = compiled.decorators()


def _channel_pairs(x):
    """x (N,H,W,C) as (N,H,W,ceil(C/2)) pairs."""
    return along_rows(x.reshape(-1, x.shape[3])).reshape(*x.shape[:3], -1)


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; an empty bias is none."""
    R, S, C, K = w.shape
    tile = amx.pairs_in_rows_tile()
    images, taps = _channel_pairs(x), scratch.array("taps", (R, S, -(-C // 2), K))
    down_columns(w.reshape(R * S, C, K), taps.reshape(R * S, -1, K).view(np.uint16))
    parallel_for(len(x), lambda first, last: direct.sweep_images(
        tile, images[first:last], taps, bias, relu, y[first:last], geometry))


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx."""
    R, S, C, K = w.shape
    images, taps, tile = _channel_pairs(dy), scratch.array("taps", (R, S, C, -(-K // 2))), amx.pairs_in_rows_tile()
    shorten(w.reshape(-1, K), taps.reshape(R * S * C, -1).view(np.uint16))
    parallel_for(len(dy), lambda first, last: direct.sweep_gradients(
        tile, images[first:last], taps, dx[first:last], geometry))


@jit
def _pixel_pairs(x, top, left, step, pairs):
    """pairs (N,H+top+bottom,W+left+right,2 C): of each pixel of x with a border of zeros, and the one `step` later."""
    (N, H, W, C), wide = x.shape, pairs.shape[2]
    for n in range(N):
        for h in range(pairs.shape[1]):
            inside = top <= h < top + H
            for w in range(wide):
                row, i = pairs[n, h, w], w - left
                if inside and 0 <= i < W:
                    first = x[n, h - top, i]
                    for c in range(C):
                        row[2 * c] = first[c]
                else:
                    row[0::2] = 0
                if inside and 0 <= i + step < W:
                    second = x[n, h - top, i + step]
                    for c in range(C):
                        row[2 * c + 1] = second[c]
                else:
                    row[1::2] = 0
            tick(wide * C)


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw."""
    (N, H, W, C), (_, P, Q, K) = x.shape, dy.shape
    stride, ((top, bottom), (left, right)), _, groups = geometry
    tile, each = micro.pairs_tile(), geometry._replace(stride=(stride[0], 2 * stride[1]), padding=BORDERLESS)
    lines, columns, half = top + H + bottom, left + W + right, -(-Q // 2)
    count = min(N, max(1, CACHED // (lines * columns * C * FLOAT)))
    images, gradients = scratch.array("images", (count, lines, columns, C)), scratch.array("dy", (count, P, half, K))
    panels = groups * -(-K // groups // tile.columns)
    for n in range(0, N, count):
        some = min(count, N - n)
        _pixel_pairs(x[n:n + some], top, left, stride[1], images[:some].view(np.uint16))
        down_columns(dy[n:n + some].reshape(some * P, Q, K),
                     gradients[:some].reshape(some * P, half, K).view(np.uint16))
        parallel_for(panels, lambda first, last, n=n, some=some: direct.sum_pixels(
            tile, images[:some], gradients[:some], dw, each, n > 0, first, last))
