"""Local response normalization, a pixel at a time; `share` is alpha / size."""

import numpy as np
from numba import njit

jit = njit(nogil=True, cache=True, error_model="numpy")


@jit
def lrn(x, size, share, beta, k, y):
    """Write x / s^beta to y."""
    C = x.shape[3]
    x, y = x.reshape(x.size // C, C), y.reshape(x.size // C, C)
    # Zeros on both sides of the channels spare the sums a test for the edge.
    squares, total = np.zeros(C + size, np.float32), np.empty(C, np.float32)
    for i in range(x.shape[0]):
        _sum_squares(x[i], size, squares, total)
        for c in range(C):
            y[i, c] = x[i, c] / _power(k + share * total[c], beta)


@jit
def lrn_backward(dy, x, y, size, share, beta, k, dx):
    """Write the gradient by x to dx; s is cheaper to compute again than to read."""
    C = x.shape[3]
    pixels, slope = x.size // C, np.float32(2) * share * beta
    dy, x, y, dx = dy.reshape(pixels, C), x.reshape(pixels, C), y.reshape(pixels, C), dx.reshape(pixels, C)
    squares, ratios = np.zeros(C + size, np.float32), np.zeros(C + size, np.float32)
    total = np.empty(C, np.float32)
    for i in range(pixels):
        _sum_squares(x[i], size, squares, total)
        for c in range(C):
            s = k + share * total[c]
            ratios[size // 2 + c] = dy[i, c] * y[i, c] / s
            dx[i, c] = dy[i, c] / _power(s, beta)
        _window_sum(ratios, size, total)
        for c in range(C):
            dx[i, c] -= slope * x[i, c] * total[c]


@jit
def _sum_squares(x, size, squares, total):
    for c in range(x.size):
        squares[(size - 1) // 2 + c] = x[c] * x[c]
    _window_sum(squares, size, total)


@jit
def _window_sum(padded, size, total):
    """The sums of `size` neighbours, two of them in a pass."""
    odd = size % 2
    for c in range(total.size):
        total[c] = padded[c] if odd else np.float32(0)
    for i in range(odd, size, 2):
        for c in range(total.size):
            total[c] += padded[i + c] + padded[i + 1 + c]


@jit
def _power(s, beta):
    if beta == np.float32(0.75):  # the usual exponent: square roots are vector instructions, powers are calls
        root = np.sqrt(s)
        return root * np.sqrt(root)
    return s ** beta
