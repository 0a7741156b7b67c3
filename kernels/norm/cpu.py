"""Local response normalization, some pixels at a time; `share` is alpha / size.

What the inner loops must know to become vector code is in types: the size of the window is the length of a tuple, and
the usual exponent, three quarters, is None. No inner loop calls a function with arrays: to pass views costs more than
to normalize a pixel.
"""

import numpy as np

from kernels import compiled, threads
from kernels.bfloat16 import narrow, widen
from kernels.progress import tick

# "arcp" lets 1 / sqrt be an estimate made good by a Newton step, three times as fast and good to 2 ulp.
jit, inner = compiled.decorators(fastmath={"arcp", "contract"})
BLOCK = 384  # floats in a pass: one pixel would load what was stored last, many would read and write memory in turns
ONE, ZERO, INFINITY = np.float32(1), np.float32(0), np.float32(np.inf)


def _constants(size, share, beta, k):
    """(window, share, exponent, k) as the compiled functions take them."""
    return (None,) * size, share, None if beta == np.float32(0.75) else beta, k


def _share(kernel, arrays, *constants):
    """kernel(part of each array as pixels, constants...) for every part."""
    pixels = [array.reshape(-1, array.shape[3]) for array in arrays]
    threads.parallel_for(len(pixels[0]), lambda a, b: kernel(*(array[a:b] for array in pixels), *constants))


def lrn(x, size, share, beta, k, y):
    """Write y = x / s^beta, which may be x."""
    _share(_lrn, (x, y), *_constants(size, share, beta, k))


def lrn_backward(dy, x, y, size, share, beta, k, dx):
    """Write the gradient by x to dx, which may be dy, x or y; s and y are cheaper to compute again than to read."""
    _share(_lrn_backward, (dy, x, dx), np.float32(2) * share * beta, *_constants(size, share, beta, k))


@jit
def _lrn(x, y, window, share, exponent, k):
    count, C = x.shape
    step = max(1, BLOCK // C)
    # Zeros on both sides of the channels spare the sums a test for the edge.
    squares = np.zeros((step, C + len(window)), np.float32)
    for first in range(0, count, step):
        part = range(min(step, count - first))
        _square(x, first, part, np.uintp((len(window) - 1) // 2), squares)
        for i in part:
            for c in range(C):
                power, _ = _powers(k + share * _window_sum(squares, i, c, window), exponent)
                y[first + i, c] = narrow(widen(x[first + i, c]) * power, y)
        tick(BLOCK)


@jit
def _lrn_backward(dy, x, dx, slope, window, share, exponent, k):
    count, C = x.shape
    step, ahead = max(1, BLOCK // C), np.uintp(len(window) // 2)
    squares, direct = np.zeros((step, C + len(window)), np.float32), np.empty((step, C), np.float32)
    ratios = np.zeros_like(squares)
    for first in range(0, count, step):
        part = range(min(step, count - first))
        _square(x, first, part, np.uintp((len(window) - 1) // 2), squares)
        for i in part:
            for c in range(C):
                power, inverse = _powers(k + share * _window_sum(squares, i, c, window), exponent)
                slope_here = widen(dy[first + i, c])
                direct[i, c] = slope_here * power
                ratios[i, ahead + np.uintp(c)] = direct[i, c] * widen(x[first + i, c]) * inverse
        for i in part:
            for c in range(C):
                total = _window_sum(ratios, i, c, window)
                dx[first + i, c] = narrow(direct[i, c] - slope * widen(x[first + i, c]) * total, dx)
        tick(BLOCK)


@inner
def _square(x, first, part, before, squares):
    for i in part:
        for c in range(x.shape[1]):
            value = widen(x[first + i, c])
            squares[i, before + np.uintp(c)] = value * value


@inner
def _window_sum(padded, i, c, window):
    total = padded[i, c]
    for j in range(1, len(window)):
        total += padded[i, np.uintp(c) + np.uintp(j)]
    return total


@inner
def _powers(s, exponent):
    """(1 / s^exponent, 1 / s)."""
    if exponent is None:
        root = ZERO if s == INFINITY else ONE / np.sqrt(s)  # the Newton step would make NaN of infinity
        return root * np.sqrt(root), root * root
    return s ** -exponent, ONE / s
