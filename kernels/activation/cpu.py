"""Rectifier and dropout on flat arrays.

The rectifier works through a block of its own: a loop that may write what it reads is not vectorized, and
would branch on every sign.
"""

import numpy as np
from numba import njit

jit = njit(nogil=True, cache=True, error_model="numpy")
BLOCK = 2048
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@jit
def _copy(block, out):
    for i in range(out.size):
        out[i] = block[i]


@jit
def relu(x, y):
    """max(x, 0) to y, which may be x."""
    block = np.empty(BLOCK, np.float32)
    for start in range(0, x.size, BLOCK):
        part = x[start:start + BLOCK]
        for i in range(part.size):
            block[i] = np.float32(0) if part[i] <= 0 else part[i]
        _copy(block, y[start:start + BLOCK])


@jit
def relu_backward(dy, y, dx):
    """dy where y > 0 to dx, which may be dy or y."""
    block = np.empty(BLOCK, np.float32)
    for start in range(0, dy.size, BLOCK):
        part, positive = dy[start:start + BLOCK], y[start:start + BLOCK]
        for i in range(part.size):
            block[i] = part[i] if positive[i] > 0 else np.float32(0)
        _copy(block, dx[start:start + BLOCK])


@jit
def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def dropout(x, threshold, scale, seed, first, y, mask):
    """Write both outputs; see ref.uniform for the random numbers."""
    start = _mix(seed) + GOLDEN * (first + np.uint64(1))
    for i in range(x.size):
        keep = _mix(start + GOLDEN * np.uint64(i)) >> np.uint64(32) >= threshold
        mask[i] = keep
        y[i] = x[i] * (scale if keep else np.float32(0))


@jit
def dropout_backward(dy, mask, scale, dx):
    """dy * mask * scale to dx."""
    for i in range(dy.size):
        dx[i] = dy[i] * (np.float32(mask[i]) * scale)
