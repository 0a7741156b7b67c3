"""SiLU on flat arrays, compiled by Numba."""

import numpy as np
from numba import njit

from kernels.exponential import exp
from kernels.progress import tick
from kernels.threads import share

BLOCK = 2048  # numbers between two ticks
MOST = np.float32(88)  # exp() overflows beyond it
jit = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@jit
def _silu(x, y):
    for start in range(0, x.size, BLOCK):
        for i in range(start, min(start + BLOCK, x.size)):
            y[i] = x[i] / (np.float32(1) + exp(min(MOST, -x[i])))
        tick(BLOCK)  # about so many nanoseconds of work: lets messages move from inside the kernel


@jit
def _silu_backward(dy, x, dx):
    for start in range(0, x.size, BLOCK):
        for i in range(start, min(start + BLOCK, x.size)):
            s = np.float32(1) / (np.float32(1) + exp(min(MOST, -x[i])))
            dx[i] = dy[i] * s * (np.float32(1) + x[i] * (np.float32(1) - s))
        tick(BLOCK)


def silu(x, y):
    """Every thread takes a part."""
    share(x.size, lambda a, b: _silu(x[a:b], y[a:b]))


def silu_backward(dy, x, dx):
    """The same."""
    share(x.size, lambda a, b: _silu_backward(dy[a:b], x[a:b], dx[a:b]))
