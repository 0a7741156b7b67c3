"""Arrays that are equal on all ranks, as one row of bytes of which each rank writes a part."""

import itertools
import math

import numpy as np

from kernels import gpu
from kernels.gpu import fetch


def table(arrays):
    """[name, dtype, shape] of each array: what the row of bytes is made of."""
    return [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()]


def size_of(rows):
    """Bytes of the arrays of a table."""
    return sum(np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in rows)


def part_of(size, rank, ranks):
    """Where the part of a rank begins and ends in a row of so many bytes."""
    return size * rank // ranks, size * (rank + 1) // ranks


def _overlaps(arrays, begin, end):
    """(flat bytes of an array, their slice, where that begins in the part) of all that a part consists of."""
    ends = itertools.accumulate(array.nbytes for array in arrays.values())
    for array, stop in zip(arrays.values(), ends, strict=True):
        start = stop - array.nbytes
        low, high = max(begin, start), min(end, stop)
        if low < high:
            yield array.reshape(-1).view(np.uint8), slice(low - start, high - start), low - begin


def piece(arrays, begin, end, memory=None):
    """A copy (end - begin,) uint8 of a part, in `memory` if that is as large: new memory takes longer to be written."""
    fits = memory is not None and memory.size == end - begin
    copied = memory if fits else np.empty(end - begin, np.uint8)
    for flat, part, at in _overlaps(arrays, begin, end):
        copied[at:at + part.stop - part.start] = fetch(flat[part])
    return copied


def put(arrays, begin, copied):
    """Write a part, which begins there, into the arrays."""
    for flat, part, at in _overlaps(arrays, begin, begin + copied.size):
        write(flat[part], copied[at:at + part.stop - part.start])


def write(array, numbers):
    """NumPy's numbers into an array, which may lie on a GPU."""
    array[...] = gpu.cupy().asarray(numbers) if gpu.is_array(array) else numbers
