"""How arrays lie in memory: cache lines, transposition, copies, distances between rows."""

import mmap
from math import prod

import numpy as np

from kernels import compiled

LINE, SMALL, HUGE = 64, 4096, 2 << 20  # bytes
LINE_FLOATS = LINE // 4

jit, inner = compiled.decorators()


def offsets(sizes):
    """({name: (begin, end)}, floats in all) for {name: floats}, one after the other, each from a cache line on."""
    found, begin = {}, 0
    for name, size in sizes.items():
        found[name] = begin, begin + size
        begin += -(-size // LINE_FLOATS) * LINE_FLOATS
    return found, begin


@jit
def transpose(source, target):
    """target[k, c] = source[c, k], in squares of a constant size that the compiler unrolls into shuffles."""
    C, K = source.shape
    c4, k4 = C // 4 * 4, K // 4 * 4
    for k in range(0, k4, 4):
        for c in range(0, c4, 4):
            for i in range(4):
                for j in range(4):
                    target[k + i, c + j] = source[c + j, k + i]
    for k in range(K):
        for c in range(c4 if k < k4 else 0, C):
            target[k, c] = source[c, k]


@inner
def copy(source, target):
    """target[i, :] = source[i, :], line by line; either may have room between its lines."""
    for i in range(source.shape[0]):
        a, b = source[i], target[i]
        for e in range(a.size):
            b[e] = a[e]


def padded_length(floats):
    """At least so many floats, an odd number of cache lines: rows that far apart share no set of a cache."""
    lines = -(-floats // 16)
    return 16 * (lines + 1 - lines % 2)


def empty(shape, dtype=np.float32):
    """An uninitialised array that begins on a cache line, unless it is small: vectors across two lines cost twice."""
    size = prod(shape) * np.dtype(dtype).itemsize
    if size < SMALL:
        return np.empty(shape, dtype)
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % LINE
    return memory[start:start + size].view(dtype).reshape(shape)


def pages(size, dtype=np.float32):
    """(size,) zeros in memory pages of their own, large ones if there are any: what others may come to share."""
    length = size * np.dtype(dtype).itemsize
    room = HUGE if length >= HUGE else 0
    memory = mmap.mmap(-1, length + room or 1)
    if room and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    begin = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    return np.frombuffer(memory, dtype, size, -begin % HUGE if room else 0)
