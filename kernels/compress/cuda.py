"""Compression on the GPU."""

import numpy as np

from kernels import gpu

BUILDS = [{}]
REGISTERS = 48
BINS, THREADS, ROWS = 1 << 15, 1024, 4  # as in cuda.cu


def _launch(name, grid, block, *arguments, **options):
    gpu.launch("compress", name, grid, block, *arguments, **options)


def topk_encode(gradient, error, packed):
    """Add up and count bfloat16's magnitudes, find the bin of the k-th largest, move what is beyond."""
    cupy, size, k = gpu.cupy(), error.size, packed.size // 2
    blocks, counts, chosen = -(-size // THREADS), cupy.zeros(BINS, np.int32), cupy.empty(2, np.int32)
    found = cupy.empty((2, blocks), np.int32)
    _launch("add_and_count", min(blocks, gpu.multiprocessors()), THREADS, gradient, error, counts, np.int64(size),
            shared=4 * BINS)
    _launch("choose", 1, THREADS, counts, chosen, k)
    _launch("find", blocks, THREADS, error, chosen, found, np.int64(size))
    _launch("scan", 1, THREADS, found, found.size)
    _launch("take", blocks, THREADS, error, chosen, found, packed, k, np.int64(size))


def topk_decode(packed, gradient):
    """Write gradient (size,), from one row of packed after the other."""
    k = packed.shape[1] // 2
    gradient.fill(0)
    for row in packed:
        _launch("add_packed", min(-(-k // 256), 8 * gpu.multiprocessors()), 256, row, gradient, k,
                np.int64(gradient.size))


def lowrank_project(gradient, error, Q, P):
    """Change gradient (n,m) and error in place, write P (n,r); a block for a few rows."""
    (n, m), r = gradient.shape, len(Q)
    _launch("project", -(-n // ROWS), 256, gradient, error, Q, P, n, m, r)


def lowrank_expand(gradient, error, P, Q, share):
    """Change gradient (n,m) and error in place; a thread for a few rows of a column."""
    (n, m), r = gradient.shape, len(Q)
    _launch("expand", (-(-n // ROWS), -(-m // 256)), 256, gradient, error, P, Q, float(share), n, m, r)
