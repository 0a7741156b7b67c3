"""Embedding on the GPU. Back, places are sorted by their tokens, digit after digit, and each token's rows summed."""

import numpy as np

from kernels import gpu

BUILDS = [{"T": T, "VEC": vector} for T, whole in (("float", 4), ("bfloat16", 8)) for vector in (whole, 1)]
REGISTERS = 80
THREADS = 256
BITS, PIECE = 9, 128  # of a digit; terms of a sum: as in cuda.cu


def _cut(rows, C, vector):
    """(grid, block): rows down and tiles of channels across."""
    packs = C // vector
    across = min(THREADS, 1 << (packs - 1).bit_length())
    down = THREADS // across
    return (-(-rows // down), -(-packs // across)), (across, down)


def embedding(tokens, table, positions, y):
    """Write y (N,T,C)."""
    (N, length, C), vector = y.shape, gpu.pack(y.shape[2], y, table, positions)
    gpu.launch("embedding", "embedding", *_cut(N * length, C, vector), tokens, table, positions, y, N * length, length,
               len(table), C, T=gpu.number(y), VEC=vector)


def _sorted(tokens, V, constants):
    """(order, begin): the places of token v are order[begin[v]:begin[v + 1]], increasing."""
    empty, M, blocks, order = gpu.cupy().empty, tokens.size, -(-tokens.size // (1 << BITS)), None
    counts, begin = empty(blocks << BITS, np.int32), empty(V + 1, np.int32)
    for shift in range(0, V.bit_length(), BITS):
        by = empty(M, np.int32)
        gpu.launch("embedding", "count_digits", blocks, 1 << BITS, tokens, order, counts, M, V, shift, **constants)
        gpu.launch("embedding", "scan", 1, 1024, counts, counts.size, **constants)
        gpu.launch("embedding", "arrange", blocks, 1 << BITS, tokens, order, counts, by, M, V, shift, **constants)
        order = by
    gpu.launch("embedding", "bounds", -(-(V + 1) // THREADS), THREADS, tokens, order, begin, M, V, **constants)
    return order, begin


def embedding_backward(dy, tokens, dtable, dpositions):
    """Write the sums dtable (V,C) and, unless it is None, dpositions."""
    (N, length, C), V = dy.shape, len(dtable)
    vector = gpu.pack(C, dy, dtable, dpositions)
    constants = {"T": gpu.number(dy), "VEC": vector}
    order, begin = _sorted(tokens, V, constants)
    pieces = -(-tokens.size // PIECE)
    heads = gpu.cupy().empty((pieces, C), np.float32)
    gpu.launch("embedding", "sum_heads", *_cut(pieces, C, vector), dy, tokens, order, begin, heads, tokens.size, V, C,
               **constants)
    gpu.launch("embedding", "sum_tokens", *_cut(V, C, vector), dy, order, begin, heads, dtable, V, C, **constants)
    if dpositions is not None:
        gpu.launch("embedding", "sum_positions", *_cut(len(dpositions), C, vector), dy, dpositions, N, length,
                   len(dpositions), C, **constants)
