"""The leaky rectifier in Numba, on flat arrays."""

from numba import njit

from kernels.progress import tick
from kernels.threads import parallel_for

BLOCK = 4096  # elements from one tick to the next
jit = njit(nogil=True, cache=True)  # without the GIL, for parallel_for runs it in several threads


@jit
def _leaky_relu(x, slope, y):
    for start in range(0, x.size, BLOCK):
        for i in range(start, min(start + BLOCK, x.size)):
            y[i] = x[i] if x[i] > 0 else slope * x[i]
        tick(BLOCK // 8)  # nanoseconds of work, about: MPI's messages advance from here


@jit
def _leaky_relu_backward(dy, x, slope, dx):
    for start in range(0, x.size, BLOCK):
        for i in range(start, min(start + BLOCK, x.size)):
            dx[i] = dy[i] if x[i] > 0 else slope * dy[i]
        tick(BLOCK // 8)


def leaky_relu(x, slope, y):
    """Write y (size,), from x (size,)."""
    parallel_for(x.size, lambda a, b: _leaky_relu(x[a:b], slope, y[a:b]))


def leaky_relu_backward(dy, x, slope, dx):
    """Write dx (size,), from dy and x (size,)."""
    parallel_for(x.size, lambda a, b: _leaky_relu_backward(dy[a:b], x[a:b], slope, dx[a:b]))
