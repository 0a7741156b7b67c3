"""Kernels that go over arrays number by number (elementwise.cuh), launched."""

import numpy as np

from kernels import gpu

THREADS, BLOCKS = 256, 8  # of a block; blocks of a multiprocessor


def launch(room, name, arrays, *arguments, **constants):
    """Run name(arrays..., n, arguments...) of a room, for arrays of n elements each; None is a null pointer."""
    n, widest = arrays[0].size, max((a for a in arrays if a is not None), key=lambda array: array.itemsize)
    vec = gpu.pack(n, widest, *arrays)
    blocks = min(-(-n // (THREADS * vec)), BLOCKS * gpu.multiprocessors())
    gpu.launch(room, name, blocks, THREADS, *arrays, np.int64(n), *arguments, VEC=vec, **constants)
