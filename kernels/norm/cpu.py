"""Local response normalization, a pixel at a time; `share` is alpha / size."""

import numpy as np
from numba import njit

jit = njit(nogil=True, cache=True, error_model="numpy")


@jit
def lrn(x, size, share, beta, k, y):
    """Write x / s^beta to y."""
    pixels, C = x.size // x.shape[3], x.shape[3]
    x, y = x.reshape(pixels, C), y.reshape(pixels, C)
    # Zeros on both sides of the channels spare the sums a test for the edge.
    squares, s, power = np.zeros(C + size, np.float32), np.empty(C, np.float32), np.empty(C, np.float32)
    for i in range(pixels):
        _scale(x[i], size, share, k, squares, s)
        _power(s, beta, power)
        for c in range(C):
            y[i, c] = x[i, c] / power[c]


@jit
def lrn_backward(dy, x, y, size, share, beta, k, dx):
    """Write the gradient by x to dx; s is cheaper to compute again than to read."""
    pixels, C = x.size // x.shape[3], x.shape[3]
    dy, x, y, dx = dy.reshape(pixels, C), x.reshape(pixels, C), y.reshape(pixels, C), dx.reshape(pixels, C)
    squares, ratios = np.zeros(C + size, np.float32), np.zeros(C + size, np.float32)
    s, power, total = np.empty(C, np.float32), np.empty(C, np.float32), np.empty(C, np.float32)
    slope = np.float32(2 * share * beta)
    for i in range(pixels):
        _scale(x[i], size, share, k, squares, s)
        _power(s, beta, power)
        for c in range(C):
            ratios[size // 2 + c] = dy[i, c] * y[i, c] / s[c]
        _window_sum(ratios, size, total)
        for c in range(C):
            dx[i, c] = dy[i, c] / power[c] - slope * x[i, c] * total[c]


@jit
def _scale(x, size, share, k, squares, s):
    for c in range(x.size):
        squares[(size - 1) // 2 + c] = x[c] * x[c]
    _window_sum(squares, size, s)
    for c in range(x.size):
        s[c] = k + share * s[c]


@jit
def _window_sum(padded, size, total):
    for c in range(total.size):
        total[c] = padded[c]
    for i in range(1, size):
        for c in range(total.size):
            total[c] += padded[i + c]


@jit
def _power(s, beta, power):
    if beta == np.float32(0.75):  # the usual exponent: square roots are vector instructions, powers are calls
        for c in range(s.size):
            root = np.sqrt(s[c])
            power[c] = root * np.sqrt(root)
    else:
        for c in range(s.size):
            power[c] = s[c] ** beta
