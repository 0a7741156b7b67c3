"""Layer normalization on the GPU: a token stays in the registers of its threads, from one to as many as a block has."""

import numpy as np

from kernels import gpu
from kernels.arguments import require

BUILDS = [{"T": T, "VEC": vector} for T, whole in (("float", 4), ("bfloat16", 8)) for vector in (whole, 1)]
REGISTERS = 128
MOST = 512  # threads of a token


def _cut(operation, M, C, vector, blocks):
    """(threads of a token, of a block, blocks), a few blocks for each multiprocessor at most."""
    each = 8 if vector == 1 else 16  # channels of a thread
    across = 1 << (-(-C // each) - 1).bit_length()
    require(across <= MOST, operation, "on the GPU x must have at most {} channels, has {}", MOST * each, C)
    threads = max(256, across)
    return across, threads, min(-(-M * across // threads), blocks * gpu.multiprocessors())


def layernorm(x, gamma, beta, eps, y):
    """Write y (M,C); return (mean (M,), rstd (M,))."""
    (M, C), vector = x.shape, gpu.pack(x.shape[1], x, y, gamma, beta)
    across, threads, blocks = _cut("layernorm", M, C, vector, 8)
    means, rstds = gpu.cupy().empty((2, M), np.float32)
    gpu.launch("layernorm", "layernorm", blocks, threads, x, gamma, beta, eps, y, means, rstds, np.int64(M), C, 1 / C,
               across, T=gpu.number(x), VEC=vector)
    return means, rstds


def layernorm_backward(dy, x, means, rstds, gamma, dx, dgamma, dbeta):
    """Write dx (M,C), which may be dy, dgamma (C,) and dbeta (C,)."""
    (M, C), vector = x.shape, gpu.pack(x.shape[1], dy, x, dx, gamma)
    across, threads, blocks = _cut("layernorm_backward", M, C, vector, 2)
    partial, constants = gpu.cupy().empty((blocks, 2, C), np.float32), {"T": gpu.number(x), "VEC": vector}
    gpu.launch("layernorm", "layernorm_backward", blocks, threads, dy, x, means, rstds, gamma, dx, partial, np.int64(M),
               C, 1 / C, across, shared=4 * 2 * C * (threads // across), **constants)
    gpu.launch("layernorm", "finish", -(-C // 32), (32, 32), partial, blocks, C, dgamma, dbeta, **constants)
