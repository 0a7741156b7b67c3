"""Dense layers on the register tile. With few rows the weights are the traffic: each is read once, in order."""

import numpy as np
from numba import njit

from kernels import micro
from kernels.micro import ACCUMULATE, RELU
from kernels.vectors import call

FLOAT = 4
SLICE = 128  # rows of weights multiplied before y is touched again: a panel of them fits L1
SUMMED = 1024  # products in one go: the rounding error grows with the longest sum
AHEAD = 2  # panels to prefetch: the hardware does not follow a walk down the columns


@njit(nogil=True, cache=True)
def _forward(tile, x, w, bias, relu, y):
    address, _, wide = tile
    (M, C), K = x.shape, w.shape[1]
    whole = np.zeros(1, np.intp)
    for c in range(0, C, SLICE):
        depth = min(SLICE, C - c)
        mode = (ACCUMULATE if c > 0 else 0) | (RELU if relu and c + depth == C else 0)
        for k in range(0, K, wide):
            call(address, (M, min(wide, K - k), depth, x.ctypes.data + c * FLOAT, C * FLOAT, FLOAT,
                           w.ctypes.data + (c * K + k) * FLOAT, K * FLOAT, y.ctypes.data + k * FLOAT, K * FLOAT,
                           1, whole.ctypes.data, whole.ctypes.data, mode,
                           bias.ctypes.data + k * FLOAT if bias.size else 0, AHEAD * wide * FLOAT))


@njit(nogil=True, cache=True)
def _columns(dy, wide):
    """dy (M,K) transposed and cut into panels (M/wide, K, wide), the last filled up with zeros."""
    M, K = dy.shape
    panels = np.zeros((-(-M // wide), K, wide), np.float32)
    for m in range(M):
        for k in range(K):
            panels[m // wide, k, m % wide] = dy[m, k]
    return panels


@njit(nogil=True, cache=True)
def _dgrad(tile, dy, w, dx):
    """dx transposed, tile by tile: so the rows of the tile are rows of w, and w is neither packed nor transposed."""
    address, tall, wide = tile
    (M, K), C = dy.shape, w.shape[0]
    whole = np.zeros(1, np.intp)
    panels = _columns(dy, wide)
    part = np.empty((tall, wide), np.float32)
    for c in range(0, C, tall):
        rows = min(tall, C - c)
        for j in range(panels.shape[0]):
            width = min(wide, M - j * wide)
            for k in range(0, K, SUMMED):
                call(address, (rows, width, min(SUMMED, K - k), w.ctypes.data + (c * K + k) * FLOAT, K * FLOAT, FLOAT,
                               panels[j, k:].ctypes.data, wide * FLOAT, part.ctypes.data, wide * FLOAT,
                               1, whole.ctypes.data, whole.ctypes.data, ACCUMULATE if k > 0 else 0, 0, 0))
            for m in range(width):
                for i in range(rows):
                    dx[j * wide + m, c + i] = part[i, m]


@njit(nogil=True, cache=True)
def _wgrad(tile, x, dy, dw):
    address, tall, wide = tile
    (M, C), K = x.shape, dy.shape[1]
    whole = np.zeros(1, np.intp)
    for c in range(0, C, tall):  # tile by tile: dw is written in order
        for k in range(0, K, wide):
            call(address, (min(tall, C - c), min(wide, K - k), M, x.ctypes.data + c * FLOAT, FLOAT, C * FLOAT,
                           dy.ctypes.data + k * FLOAT, K * FLOAT, dw.ctypes.data + (c * K + k) * FLOAT, K * FLOAT,
                           1, whole.ctypes.data, whole.ctypes.data, 0, 0, 0))


def forward(x, w, bias, relu, y):
    """y = x w + bias; an empty bias is none."""
    _forward(micro.tile(), x, w, bias, relu, y)


def dgrad(dy, w, dx):
    """Gradient by the input, into dx."""
    _dgrad(micro.tile(), dy, w, dx)


def wgrad(x, dy, dw):
    """Gradient by the weights, into dw."""
    _wgrad(micro.tile(), x, dy, dw)
