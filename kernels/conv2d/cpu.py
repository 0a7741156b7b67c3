"""Which way to convolve: as a matrix product, by transforms where they win, or directly."""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import widen
from kernels.conv2d import direct, pairs, pointwise, winograd

NONE = np.zeros(0, np.float32)


def _way(dtype, w_shape, y_shape, stride, padding, groups):
    if w_shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)) and groups == 1:
        return pointwise
    if dtype == np.uint16:
        return pairs
    return winograd if winograd.wins(w_shape, stride, groups, *y_shape[1:3]) else direct


def forward(x, w, bias, relu, y, stride, padding, groups):
    """y = conv(x, w) + bias (None: no bias), clipped at zero if `relu`."""
    bias = NONE if bias is None else bias
    _way(x.dtype, w.shape, y.shape, stride, padding, groups).forward(x, w, bias, relu, y, stride, padding, groups)


def dgrad(dy, w, dx, stride, padding, groups):
    """Gradient by the input, into dx."""
    R, S, C, K = w.shape
    way = _way(dy.dtype, (R, S, K // groups, C * groups), dx.shape, stride, padding, groups)
    way = direct if way is winograd and max(stride) > 1 else way
    way.dgrad(dy, w, dx, stride, padding, groups)


def wgrad(x, dy, dw, stride, padding, groups):
    """Gradient by the weights, into dw."""
    _way(x.dtype, dw.shape, dy.shape, stride, padding, groups).wgrad(x, dy, dw, stride, padding, groups)


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
