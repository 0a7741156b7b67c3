"""Pooling on the GPU: a block for each row of pixels that is written."""

from kernels import gpu

BUILDS = [{"T": T, "VEC": vector} for T, whole in (("float", 4), ("bfloat16", 8)) for vector in (whole, 1)]
REGISTERS = 64
THREADS = 256


def _launch(name, written, rows, columns, *arrays):
    """Launch a kernel with a block for each row of pixels of `written` (N,H,W,C), one of the arrays."""
    N, H, W, C = written.shape
    vector = gpu.pack(C, *arrays)
    packs = W * C // vector
    turns = -(-packs // THREADS)
    threads = -(-packs // (32 * turns)) * 32  # as many as have work in every turn
    gpu.launch("pool", name, N * H, threads, *arrays, C, *rows.numbers, *columns.numbers, T=gpu.number(written),
               VEC=vector)


def maxpool2d(x, rows, columns, y, index):
    """Write the maximum of each window to y and the number of its tap to index."""
    _launch("maxpool2d", y, rows, columns, x, y, index)


def maxpool2d_backward(dy, index, rows, columns, dx):
    """Write to dx the sum of the dy of the windows each input won."""
    _launch("maxpool2d_backward", dx, rows, columns, dy, index, dx)


def avgpool2d(x, rows, columns, y):
    """Write the average of each window to y."""
    _launch("avgpool2d", y, rows, columns, x, y)


def avgpool2d_backward(dy, rows, columns, dx):
    """Write to dx the sum of each input's shares of dy."""
    _launch("avgpool2d_backward", dx, rows, columns, dy, dx)
