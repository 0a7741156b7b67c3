"""How images are read: with a border, tap by tap, or some rows at a time."""

import math

import numpy as np

from kernels import compiled
from kernels.bfloat16 import widen

FLOAT = 4
BORDERLESS = (0, 0), (0, 0)  # padding
CACHED = 384 << 10  # bytes of image worked on at a time: it shares a core's L2 with a panel of the weights

jit, inner = compiled.decorators()


@inner
def pad(x, padded, top, left):
    """Copy images into the middle of a buffer whose border is already zero."""
    for n in range(x.shape[0]):
        for h in range(x.shape[1]):
            for w in range(x.shape[2]):
                for c in range(x.shape[3]):
                    padded[n, top + h, left + w, c] = x[n, h, w, c]


@inner
def with_border(x, top, bottom, left, right):
    """A buffer for as many padded images as stay in cache; for none without a border."""
    N, H, W, C = x.shape
    bytes_each = (top + H + bottom) * (left + W + right) * C * FLOAT
    count = min(N, max(1, CACHED // bytes_each)) if top + bottom + left + right > 0 else 0
    return np.zeros((count, top + H + bottom, left + W + right, C), np.float32)


@inner
def inside(start, apart, count, begin, end):
    """Which of start, start + apart, ..., so many, lie within begin..end: (first, past the last)."""
    first = min(count, max(0, -((start - begin) // apart)))
    return first, max(first, min(count, (end - 1 - start) // apart + 1))


@inner
def phases(taps, stride, dilation):
    """How many phases a stride has, along one axis: each is the pixels of dx that the same taps reach."""
    return min(stride // math.gcd(stride, dilation), taps)


@inner
def phase(tap, taps, stride, before, dilation):
    """The phase that begins with a tap, along one axis, as a convolution of dy.

    (its first pixel of dx, the first of dy that its last tap meets there, how many taps, how many to the next one, how
    many pixels of dy from one to the next); `before` is the padding.
    """
    both = math.gcd(stride, dilation)
    every, apart, offset = stride // both, dilation // both, tap * dilation - before
    first, count = offset % stride, -(-(taps - tap) // every)
    return first, (first - offset) // stride - (count - 1) * apart, count, every, apart


@jit
def shifted(x, h, v, stride, seen):
    """The pixels that one tap meets: seen (N,P,Q,C) begins at pixel (h, v) of x; zero outside."""
    (sh, sw), (N, P, Q, C) = stride, seen.shape
    H, W = x.shape[1:3]
    for n in range(N):
        for p in range(P):
            for q in range(Q):
                target, i, j = seen[n, p, q], h + p * sh, v + q * sw
                if 0 <= i < H and 0 <= j < W:
                    source = x[n, i, j]
                    for c in range(C):
                        target[c] = source[c]
                else:
                    target[:] = 0


@inner
def copy_from(source, start, target):
    """target[i] = source[start + i], zero outside; bfloat16 becomes float32."""
    a, b = min(target.size, max(0, -start)), max(0, min(target.size, source.size - start))
    target[:a] = 0
    target[max(a, b):] = 0
    inside, wanted = target[a:b], source[start + a:start + b]
    for i in range(inside.size):
        inside[i] = widen(wanted[i])


@inner
def gather(x, first, top, left, s, line):
    """What n rows of squares need of an image (H,W,C), from row `first` on, into line (rows, columns, s*s*C)."""
    rows, columns, channels = line.shape
    H, W, C = x.shape
    size = s * C
    for i in range(rows):
        for d in range(s):
            h = (first + i) * s + d - top
            if not 0 <= h < H:
                line[i, :, d * size:(d + 1) * size] = 0
            elif s == 1:
                copy_from(x[h].reshape(W * C), -left * C, line[i].reshape(columns * C))
            else:
                pixels = x[h].reshape(W * C)
                begin = -(-left // s)  # the cells that lie inside
                end = max(begin, min(columns, (W + left) // s))
                for j in range(begin):
                    copy_from(pixels, (j * s - left) * C, line[i, j, d * size:(d + 1) * size])
                for e in range(size):  # cells are short: going along the row takes fewer instructions
                    for j in range(begin, end):
                        line[i, j, d * size + e] = pixels[(j * s - left) * C + e]
                for j in range(end, columns):
                    copy_from(pixels, (j * s - left) * C, line[i, j, d * size:(d + 1) * size])
