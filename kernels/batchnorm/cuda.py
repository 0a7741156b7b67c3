"""Batch normalization of rows (M,C) on the GPU: two launches for sums, one for what goes over all rows once."""

import numpy as np

from kernels import gpu

BUILDS = [{"T": T, "VEC": vector, "S": S} for T, vector, S in (
    ("float", 4, "float"), ("float", 1, "float"), ("bfloat16", 8, "float"), ("bfloat16", 1, "float"),
    ("float", 1, "double"))]
REGISTERS = 96
THREADS = 256
ROWS = 4  # that a thread has at least, if there are many


def _cut(M, C, vector):
    """(grid, block): tiles of channels and of rows, threads across and down."""
    packs = C // vector
    across = min(32, 1 << (packs - 1).bit_length())
    down, tiles = THREADS // across, -(-packs // across)
    chunks = min(-(-M // (down * ROWS)), max(1, 8 * gpu.multiprocessors() // tiles))
    return (tiles, chunks), (across, down)


def _launch(name, grid, block, vector, x, *arguments):
    """Launch a kernel; its macros follow from x, one of the activations."""
    gpu.launch("batchnorm", name, grid, block, *arguments, T=gpu.number(x), VEC=vector, S="float")


def _partial(grid, C):
    return gpu.cupy().empty((grid[1], 2, C), np.float64)


def statistics(x):
    """(mean (C,), var (C,)) float32 of x (M,C)."""
    (M, C), vector = x.shape, gpu.pack(x.shape[1], x)
    grid, block = _cut(M, C, vector)
    partial, mean, var = _partial(grid, C), *gpu.cupy().empty((2, C), np.float32)
    _launch("moments", grid, block, vector, x, x, partial, np.int64(M), C)
    _launch("finish_moments", -(-C // 32), (32, 32), vector, x, x, partial, grid[1], block[1], np.int64(M), C, mean,
            var)
    return mean, var


def normalize(x, mean, var, gamma, beta, eps, add, relu, y):
    """Write y (M,C) = gamma * (x - mean) / sqrt(var + eps) + beta + add, clipped at zero if `relu`."""
    (M, C), vector = x.shape, gpu.pack(x.shape[1], x, add, y)
    _launch("normalize", *_cut(M, C, vector), vector, x, x, mean, var, gamma, beta, eps, add, bool(relu), y,
            np.int64(M), C)


def wgrad(dy, y, x, mean, var, eps, dgamma, dbeta):
    """Write dgamma and dbeta (C,); where y is 0, set dy to 0 first."""
    (M, C), vector = x.shape, gpu.pack(x.shape[1], dy, y, x)
    grid, block = _cut(M, C, vector)
    partial = _partial(grid, C)
    _launch("gradients", grid, block, vector, x, dy, y, x, mean, partial, np.int64(M), C)
    _launch("finish_gradients", -(-C // 32), (32, 32), vector, x, partial, grid[1], C, var, eps, dgamma, dbeta)


def dgrad(dy, x, mean, var, gamma, dgamma, dbeta, eps, count, dx):
    """Write dx (M,C)."""
    (M, C), vector = x.shape, gpu.pack(x.shape[1], dy, x, dx)
    _launch("dgrad", *_cut(M, C, vector), vector, x, dy, x, mean, var, gamma, dgamma, dbeta, eps, float(1 / count), dx,
            np.int64(M), C)


def running(state, mean, var, count, momentum):
    """Change the state to that after one more batch."""
    gpu.launch("batchnorm", "running", 1, 1024, state, mean, var, mean.size, np.float64(count), np.float64(momentum),
               T="float", VEC=1, S=gpu.number(mean))
