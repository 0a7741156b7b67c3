"""Updates on the GPU, one pass over memory, with the CPU's bits (but denormal numbers count as zero)."""

import numpy as np

from kernels import gpu
from kernels.cuda import elementwise

REGISTERS = 40
BUILDS = [{"VEC": vec, "T": T} for T in ("float", "bfloat16") for vec in (4, 1)]
BLOCKS = 1024  # of a sum at most: the bits depend on it, so it is the same on every GPU


def _number(g):
    """The macro T: what gradients are."""
    return "float" if g.dtype == np.float32 else "bfloat16"


def momentum_update(w, g, v, rounded, *constants):
    """Change w and v (size,) in place, and write `rounded` unless it is None."""
    elementwise.launch("update", "momentum_update", (w, g, v, rounded), *constants, T=_number(g))


def adamw_update(w, g, m, v, rounded, *constants):
    """Change w, m and v (size,) in place, and write `rounded` unless it is None."""
    elementwise.launch("update", "adamw_update", (w, g, m, v, rounded), *constants, T=_number(g))


def compensate_delay(g, w, then, factor):
    """Change g (size,) in place."""
    elementwise.launch("update", "compensate_delay", (g, w, then), factor, T="float")


def extrapolate(w, new, rounded, factor):
    """Change w (size,) in place, and write `rounded` unless it is None."""
    elementwise.launch("update", "extrapolate", (w, new, rounded), factor, T="float")


def sum_of_squares(x):
    """A float, so this waits for the GPU; blocks add, then one adds their sums."""
    n, vec = np.int64(x.size), gpu.pack(4, x)
    blocks = min(-(-x.size // (4 * elementwise.THREADS)), BLOCKS)
    sums = gpu.cupy().empty(blocks + 1, np.float64)
    build = {"VEC": vec, "T": _number(x)}
    gpu.launch("update", "sum_of_squares", blocks, elementwise.THREADS, x, n, sums, **build)
    gpu.launch("update", "sum_blocks", 1, elementwise.THREADS, sums, blocks, sums[blocks:], **build)
    return float(sums[blocks])
