"""Launcher of cuda.cu: how many rows a block takes, and what it needs of shared memory."""

import itertools

import numpy as np

from kernels import gpu
from kernels.cuda import products

PADDED = (16, 32, 64, 80, 96, 128)  # channels of a head that there are kernels for; fewer have zeros behind them
THREADS = 128
REGISTERS = 255
BUILDS = [{"T": T, "MATH": math, "D_PADDED": padded} for (T, math), padded in itertools.product(
    (("float", "FLOAT32"), ("float", "TF32"), ("bfloat16", "BF16")), PADDED)]


def _constants(qkv, D):
    """{macro: value} of cuda.cu, for qkv with heads of D channels."""
    return {"T": gpu.number(qkv), "MATH": products.math() if qkv.dtype == np.float32 else "BF16",
            "D_PADDED": next(padded for padded in PADDED if padded >= D)}


def _shared(padded, itemsize, rows):
    """Bytes: rows that a block keeps, and twice two arrays' columns, with two floats each."""
    columns, line = 64 if padded <= 64 else 32, padded * itemsize + 16
    return rows * line + 2 * columns * (2 * line + 8)


def _launch(name, rows, kept, lse, qkv, *arrays):
    """A kernel with a block for each head and so many rows, which it keeps of so many arrays."""
    (N, heads, T), D = lse.shape, qkv.shape[2] // 3 // lse.shape[1]
    constants = _constants(qkv, D)
    gpu.launch("attention", name, (N * heads, -(-T // rows)), THREADS, qkv, *arrays, T, heads, D,
               gpu.pack(D, qkv, *arrays) > 1, float(1 / np.sqrt(D)),
               shared=_shared(constants["D_PADDED"], qkv.itemsize, kept * rows), **constants)


def forward(qkv, y, lse):
    """Write y (N,T,C) and lse (N,heads,T); in blocks of 128 queries if each multiprocessor gets two, else of 64."""
    N, heads, T = lse.shape
    rows = 128 if N * heads * -(-T // 128) >= 2 * gpu.multiprocessors() else 64
    _launch(f"forward_{rows}", rows, 1, lse, qkv, y, lse)


def backward(dy, qkv, y, lse, dqkv):
    """Write dqkv (N,T,3C)."""
    heads, T = lse.shape[1:]
    D, delta = y.shape[2] // heads, gpu.cupy().empty_like(lse)
    gpu.launch("attention", "inner", min(-(-lse.size // 32), 16 * gpu.multiprocessors()), 256, dy, y, delta,
               np.int64(lse.size), T, heads, D, gpu.pack(D, dy, y) > 1, **_constants(qkv, D))
    for name in ("by_queries", "by_keys"):
        _launch(name, 64, 2, lse, qkv, dy, lse, delta, dqkv)
