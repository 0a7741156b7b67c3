"""Which way to convolve: as a matrix product, channel by channel, by transforms where they win, or directly."""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import rounded, widen, widened
from kernels.conv2d import depthwise, dilated, direct, pairs, pointwise, taps, winograd
from kernels.conv2d.pixels import BORDERLESS

NONE = np.zeros(0, np.float32)
SMALL = 64  # pixels


def _flat(image, w, geometry):
    """(image, weights, geometry), as those of one pixel if the window is the whole image: then it is a dense layer."""
    if image.shape[1:3] != w.shape[:2] or geometry[1:] != (BORDERLESS, (1, 1), 1):
        return image, w, geometry
    return image.reshape(len(image), 1, 1, -1), w.reshape(1, 1, -1, w.shape[3]), geometry._replace(stride=(1, 1))


def _way(dtype, w_shape, y_shape, geometry, transforms=True):
    stride, padding, dilation, groups = geometry
    if w_shape[:2] == (1, 1) and padding == BORDERLESS and groups == 1:
        return pointwise
    if w_shape[2] == 1 and w_shape[3] == groups > 1:
        return depthwise
    transforms = transforms and not taps.wins(y_shape, w_shape, groups)
    if transforms and dilation == (1, 1) and winograd.wins(w_shape, stride, groups, *y_shape[1:3]):
        return winograd
    if transforms and dilation != (1, 1) and dilated.wins(w_shape, y_shape, geometry):
        return dilated
    return pairs if dtype == np.uint16 and (groups == 1 or w_shape[2] % 2 == 0) else direct


def _worth_widening(dtype, shape):
    """Whether transforms may be in float32: of small images they save too little."""
    return dtype == np.float32 or shape[1] * shape[2] > SMALL


def _in_float32(way, dtype):
    """Whether bfloat16 must be widened for it: transforms save more products than pairs do."""
    return dtype == np.uint16 and way in (winograd, dilated, direct)


def _as_taken(way, w):
    """The weights: in float32 but where pairs are made of them."""
    return widened("wide w", w) if w.dtype == np.uint16 and way not in (pairs, pointwise) else w


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias (None: no bias), clipped at zero if `relu`."""
    bias = NONE if bias is None else bias
    x, w, geometry = _flat(x, w, geometry)
    way = _way(x.dtype, w.shape, y.shape, geometry, _worth_widening(x.dtype, y.shape))
    w = _as_taken(way, w)
    if _in_float32(way, x.dtype):
        wide = widened("wide", x)
        rounded(lambda target: way.forward(wide, w, bias, relu, target, geometry), y)
    else:
        way.forward(x, w, bias, relu, y, geometry)


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx."""
    dx, w, geometry = _flat(dx, w, geometry)
    (R, S, C, K), groups = w.shape, geometry.groups
    transforms = (max(geometry.stride) == 1 and _worth_widening(dy.dtype, dx.shape)
                  and dilated.fits(dy.shape, w.shape, dx.shape, geometry.dilation))
    way = _way(dy.dtype, (R, S, K // groups, C * groups), dx.shape, geometry, transforms)
    w = _as_taken(way, w)
    if _in_float32(way, dy.dtype):
        wide = widened("wide", dy)
        rounded(lambda target: way.dgrad(wide, w, target, geometry), dx)
    else:
        way.dgrad(dy, w, dx, geometry)


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw."""
    x, dw, geometry = _flat(x, dw, geometry)
    way = _way(x.dtype, dw.shape, dy.shape, geometry)
    if _in_float32(way, x.dtype):
        x, dy = widened("wide", x), widened("wide dy", dy)
    way.wgrad(x, dy, dw, geometry)


@compiled.kernel()
def _sum_pixels(dy, db):
    """Partial sums for each line of pixels keep the rounding error of float32 small."""
    N, P, Q, K = dy.shape
    line = np.empty(K, np.float32)
    db[:] = 0
    for n in range(N):
        for p in range(P):
            line[:] = 0
            for q in range(Q):
                for k in range(K):
                    line[k] += widen(dy[n, p, q, k])
            for k in range(K):
                db[k] += line[k]


def bias_grad(dy, db):
    """Sum of dy over all dimensions but the last, into db."""
    _sum_pixels(dy.reshape(dy.shape[0], -1, 1, dy.shape[-1]) if dy.ndim == 2 else dy, db)
