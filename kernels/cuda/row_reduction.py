"""Sums over the rows of arrays (M,K) on the GPU (row_reduction.cuh): how they are cut, and launched."""

import numpy as np

from kernels import gpu

THREADS = 256
LEAST_ROWS = 8  # of a thread, if there are so many
PIECES = 512  # of rows, times strips of columns: about what fills a GPU, and the same on all, for the bits depend on it
ALL = 1024  # threads of a block that adds pieces, 32 side by side


def launch(room, name, arrays, sums, **constants):
    """Run name(arrays..., sums, M, K, width, piece) of a room, a block for each strip and piece, and add the pieces.

    arrays (M,K); sums (K,). The kernel calls sum_columns<VEC>.
    """
    M, K = arrays[0].shape
    vec = constants["VEC"] = gpu.pack(K, *arrays)
    strips = -(-K // (THREADS * vec))
    width = -(-K // (strips * vec))
    pieces = min(-(-M // (LEAST_ROWS * (THREADS // width))), max(1, PIECES // strips))
    piece = -(-M // pieces)
    pieces = -(-M // piece)
    parts = sums if pieces == 1 else gpu.cupy().empty((pieces, K), np.float32)
    gpu.launch(room, name, (strips, pieces), THREADS, *arrays, parts, np.int64(M), K, width, np.int64(piece),
               shared=4 * THREADS * vec, **constants)
    if pieces > 1:
        gpu.launch(room, "sum_pieces", -(-K // 32), ALL, parts, sums, np.int64(pieces), K, shared=4 * ALL, **constants)
