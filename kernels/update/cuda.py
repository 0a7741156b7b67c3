"""Updates on the GPU, one pass over memory, with the CPU's bits (but denormal numbers count as zero)."""

import numpy as np

from kernels import gpu
from kernels.cuda import elementwise

REGISTERS = 40
BUILDS = [{"VEC": 4}, {"VEC": 1}]
BLOCKS = 1024  # of a sum at most: the bits depend on it, so it is the same on every GPU


def momentum_update(w, g, v, *constants):
    """Change w and v (size,) in place."""
    elementwise.launch("update", "momentum_update", (w, g, v), *constants)


def adamw_update(w, g, m, v, *constants):
    """Change w, m and v (size,) in place."""
    elementwise.launch("update", "adamw_update", (w, g, m, v), *constants)


def compensate_delay(g, w, then, factor):
    """Change g (size,) in place."""
    elementwise.launch("update", "compensate_delay", (g, w, then), factor)


def sum_of_squares(x):
    """A float, so this waits for the GPU; blocks add, then one adds their sums."""
    n, vec = np.int64(x.size), gpu.pack(4, x)
    blocks = min(-(-x.size // (4 * elementwise.THREADS)), BLOCKS)
    sums = gpu.cupy().empty(blocks + 1, np.float64)
    gpu.launch("update", "sum_of_squares", blocks, elementwise.THREADS, x, n, sums, VEC=vec)
    gpu.launch("update", "sum_blocks", 1, elementwise.THREADS, sums, blocks, sums[blocks:], VEC=vec)
    return float(sums[blocks])
