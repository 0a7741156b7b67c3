"""Rectifiers and dropout on flat arrays.

The rectifier works through a block of its own: a loop that may write what it reads is not vectorized, and
would branch on every sign.
"""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import narrow, widen
from kernels.exponential import exp
from kernels.progress import tick
from kernels.threads import parallel_for

jit, inner = compiled.decorators()
contracted = compiled.part(fastmath={"contract"})
BLOCK = 2048
ROWS = 256  # of a sum over rows in one go: the rounding error grows with the longest sum
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _each(kernel, *arrays):
    """kernel(part of each array) for every part."""
    parallel_for(arrays[0].size, lambda a, b: kernel(*(array[a:b] for array in arrays)))


@inner
def _copy(block, out):
    for i in range(out.size):
        out[i] = narrow(block[i], out)


@inner
def _mask(dy, y, block):
    for i in range(dy.size):
        block[i] = widen(dy[i]) if widen(y[i]) > 0 else np.float32(0)


@jit
def _relu(x, y):
    block = np.empty(BLOCK, np.float32)
    for start in range(0, x.size, BLOCK):
        part = x[start:start + BLOCK]
        for i in range(part.size):
            value = widen(part[i])
            block[i] = np.float32(0) if value <= 0 else value
        _copy(block, y[start:start + BLOCK])
        tick(BLOCK)


def relu(x, y):
    """Write y = max(x, 0), which may be x."""
    _each(_relu, x, y)


@jit
def _relu_backward(dy, y, dx):
    block = np.empty(BLOCK, np.float32)
    for start in range(0, dy.size, BLOCK):
        _mask(dy[start:start + BLOCK], y[start:start + BLOCK], block)
        _copy(block, dx[start:start + BLOCK])
        tick(BLOCK)


def relu_backward(dy, y, dx):
    """Write dx, dy where y > 0, else 0; dx may be dy or y."""
    _each(_relu_backward, dy, y, dx)


@jit
def _bias_relu_backward(dy, y, dx, sums, first, last):
    """Pieces first to last of sums, each of ROWS rows; the rest is flat."""
    K = sums.shape[1]
    block = np.empty(max(1, BLOCK // K) * K, np.float32)
    rows = block.size // K
    for piece in range(first, last):
        total, end = sums[piece], min((piece + 1) * ROWS, dy.size // K)
        total[:] = 0
        for start in range(piece * ROWS, end, rows):
            stop = min(start + rows, end)
            _mask(dy[start * K:stop * K], y[start * K:stop * K], block)
            _copy(block, dx[start * K:stop * K])
            for i in range(stop - start):
                for k in range(K):
                    total[k] += block[i * K + k]
            tick(block.size)


def bias_relu_backward(dy, y, dx, db):
    """Write dx, dy where y > 0, and db (K,), its sums over rows; dy, y and dx (M,K)."""
    pieces = -(-len(dy) // ROWS)
    sums = np.empty((pieces, db.size), np.float32) if pieces > 1 else db.reshape(1, -1)
    flat = [array.reshape(-1) for array in (dy, y, dx)]
    parallel_for(pieces, lambda first, last: _bias_relu_backward(*flat, sums, first, last))
    if pieces > 1:
        np.sum(sums, axis=0, out=db)


@inner
def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def _dropout_blocks(x, threshold, scale, seed, first, y, mask):
    begin = _mix(seed) + GOLDEN * (first + np.uint64(1))
    for start in range(0, x.size, BLOCK):
        end = start + BLOCK
        _dropout(x[start:end], threshold, scale, begin + GOLDEN * np.uint64(start), y[start:end], mask[start:end])
        tick(BLOCK)


def dropout(x, threshold, scale, seed, first, y, mask):
    """Write y, which may be x, and mask; ref.uniform has the random numbers."""
    def work(a, b):
        _dropout_blocks(x[a:b], threshold, scale, seed, np.uint64((int(first) + a) % 2**64), y[a:b], mask[a:b])

    parallel_for(x.size, work)


@inner
def _dropout(x, threshold, scale, begin, y, mask):
    for i in range(x.size):
        keep = _mix(begin + GOLDEN * np.uint64(i)) >> np.uint64(32) >= threshold
        mask[i] = keep
        y[i] = narrow(widen(x[i]) * (scale if keep else np.float32(0)), y)


@jit
def _dropout_backward(dy, mask, scale, dx):
    for start in range(0, dy.size, BLOCK):
        part, kept, into = dy[start:start + BLOCK], mask[start:start + BLOCK], dx[start:start + BLOCK]
        for i in range(part.size):
            into[i] = narrow(widen(part[i]) * (np.float32(kept[i]) * scale), into)
        tick(BLOCK)


def dropout_backward(dy, mask, scale, dx):
    """Write dx = dy * mask * scale; dx may be dy."""
    parallel_for(dy.size, lambda a, b: _dropout_backward(dy[a:b], mask[a:b], scale, dx[a:b]))


ONE, MOST, FAR = np.float32(1), np.float32(80), np.float32(20)  # exp of MOST is finite; beyond FAR gelu is 0 or x
SLOPE, CUBIC = np.float32(2 * np.sqrt(2 / np.pi)), np.float32(0.044715)


@contracted
def _decay(x):
    """exp(-2 u) with u = sqrt(2/pi) (x + 0.044715 x^3): 1 / (1 + that) is (1 + tanh u) / 2."""
    z = -SLOPE * x * (ONE + CUBIC * x * x)
    return exp(MOST if z > MOST else z)


@contracted
def _gelu(x, block):
    for i in range(x.size):
        value = widen(x[i])
        near = -FAR if value < -FAR else value  # exp of MOST is not enough to make nothing of the largest
        block[i] = near / (ONE + _decay(near))


@contracted
def _gelu_slope(x, dy, block):
    for i in range(x.size):
        value = widen(x[i])
        near = FAR if value > FAR else (-FAR if value < -FAR else value)
        decay = _decay(near)
        share = ONE / (ONE + decay)
        slope = ONE + near * decay * share * SLOPE * (ONE + np.float32(3) * CUBIC * near * near)
        block[i] = widen(dy[i]) * share * slope


@jit
def _gelu_blocks(x, y):
    block = np.empty(BLOCK, np.float32)
    for start in range(0, x.size, BLOCK):
        _gelu(x[start:start + BLOCK], block)
        _copy(block, y[start:start + BLOCK])
        tick(BLOCK)


def gelu(x, y):
    """Write y, which may be x."""
    _each(_gelu_blocks, x, y)


@jit
def _gelu_backward(dy, x, dx):
    block = np.empty(BLOCK, np.float32)
    for start in range(0, dy.size, BLOCK):
        _gelu_slope(x[start:start + BLOCK], dy[start:start + BLOCK], block)
        _copy(block, dx[start:start + BLOCK])
        tick(BLOCK)


def gelu_backward(dy, x, dx):
    """Write dx, which may be dy or x."""
    _each(_gelu_backward, dy, x, dx)


@jit
def _add(x, y, out):
    block = np.empty(BLOCK, np.float32)
    for start in range(0, x.size, BLOCK):
        a, b = x[start:start + BLOCK], y[start:start + BLOCK]
        for i in range(a.size):
            block[i] = widen(a[i]) + widen(b[i])
        _copy(block, out[start:start + BLOCK])
        tick(BLOCK)


def add(x, y, out):
    """Write out = x + y, which may be either."""
    _each(_add, x, y, out)
