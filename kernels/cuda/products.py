"""How products are cut for a GPU: the size of a block's tile, and into how many parts a long sum goes."""

import functools
import itertools
from typing import NamedTuple

import numpy as np

from kernels import gpu
from kernels.arguments import require

STAGES, LINE = 3, 128  # as product.cuh has them: tiles in shared memory, bytes of a line by k
ALIGNMENT = 1024  # as wgmma.cuh has it
TILES = {(128, 128): 1.0, (128, 64): 0.9, (64, 64): 0.7}  # rows and columns; speed, the largest being 1
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
# What a product's time is estimated with, all of it for a H100 or H200: TFLOP/s of a multiprocessor, tiles of k that a
# block's beginning and end take as long as, how much longer than half of two blocks one takes that has a multiprocessor
# for itself, seconds of a launch, bytes a second.
SPEED = {"FLOAT32": 0.35e12, "TF32": 1.5e12, "BF16": 4e12}
ENDS, ALONE, LAUNCH, BANDWIDTH = 3, 1.5, 3e-6, 3e12
MOST = (1 << 16) - 1  # products of a launch: blocks of a grid along its third dimension


def math():
    """The macro MATH for products of float32 arrays."""
    return "TF32" if gpu.precision() == "tf32" else "FLOAT32"


class Cut(NamedTuple):
    """Tiles of rows x columns, parts of the sum, and the macros of product.cuh that tell of both operands."""

    rows: int
    columns: int
    splits: int
    operands: dict

    @property
    def shared(self):
        """Bytes of shared memory that a block has."""
        return STAGES * (self.rows + self.columns) * LINE + (ALIGNMENT if "WGMMA" in self.operands else 0)

    @property
    def threads(self):
        """Threads of a block."""
        return 256 if self.operands["MATH"] == "FLOAT32" else 128

    @property
    def constants(self):
        """{macro: value} of product.cuh."""
        return {"BM": self.rows, "BN": self.columns, **self.operands}

    def grid(self, M, N, times):
        """Blocks along each dimension, for `times` products of size (M,N)."""
        return -(-M // self.rows) * -(-N // self.columns), self.splits, times


def _seconds(M, N, K, times, math, multiprocessors, tile, parts):
    """Of `times` products of (M,K) and (K,N), by blocks of that tile, each of a part of the sums: about."""
    depth = LINE // (2 if math == "BF16" else 4)
    blocks = -(-M // tile[0]) * -(-N // tile[1]) * times * parts
    steps = -(-K // (depth * parts)) + ENDS
    each = steps * 2 * tile[0] * tile[1] * depth / (SPEED[math] * TILES[tile])
    adding = LAUNCH + (parts + 2) * 4 * M * N * times / BANDWIDTH if parts > 1 else 0
    return max(-(-blocks // multiprocessors), ALONE) * each + adding


@functools.lru_cache(1 << 12)
def _fastest(*product, split, whole):
    """(tile, parts) of a product (M, N, K, times, math, multiprocessors)."""
    choices = itertools.product(TILES if whole else list(TILES)[-1:], PARTS if split else PARTS[:1])
    return min(choices, key=lambda choice: _seconds(*product, *choice))


def cut(M, N, K, times, a, b, out, *, lines, split=True):
    """The tile, and the number of parts of the sums, that should take least time for `times` products of (M,K) and
    (K,N).

    `lines`: the sizes of which 16 bytes must be a divisor in a and in b, or they are copied number by number, in the
    smallest tiles. `split`: whether there may be parts.
    """
    whole = [int(all(gpu.pack(size, array) > 1 for size in sizes)) for array, sizes in zip((a, b), lines, strict=True)]
    operands = {"T": gpu.number(a), "O": gpu.number(out), "MATH": math() if a.dtype == "float32" else "BF16",
                "A_VECTOR": whole[0], "B_VECTOR": whole[1]}
    if operands["MATH"] == "BF16" and gpu.has_wgmma():
        operands["WGMMA"] = 1
    tile, parts = _fastest(M, N, K, times, operands["MATH"], gpu.multiprocessors(), split=split, whole=all(whole))
    return Cut(*tile, parts, operands)


def run(room, kernel, cut, size, times, a, b, out, bias, relu, *numbers, **constants):
    """Launch a kernel (a, b, out, parts, bias, relu, numbers...) for `times` products of size (M,N).

    If the sums are in parts, they are added up in their order. Raises ValueError for more products than a grid has.
    """
    require(times <= MOST, room, "on the GPU there must be at most {} batches or groups, are {}", MOST, times)
    M, N = size
    parts = gpu.cupy().empty((times, cut.splits, M, N), np.float32) if cut.splits > 1 else None
    constants |= cut.constants
    gpu.launch(room, kernel, cut.grid(M, N, times), cut.threads, a, b, out, parts, bias, bool(relu), *numbers,
               shared=cut.shared, **constants)
    if parts is not None:
        gpu.launch(room, "sum_parts", (min(-(-M * N // 256), 8 * gpu.multiprocessors()), times), 256, parts, out, bias,
                   bool(relu), M, N, cut.splits, **constants)


def builds(layouts, **constants):
    """The macros that products are compiled with: every way to multiply, and tile; number by number the smallest."""
    for math, T in (("FLOAT32", "float"), ("TF32", "float"), ("BF16", "bfloat16")):
        for rows, columns, vector in (*((*tile, 1) for tile in TILES), (*list(TILES)[-1], 0)):
            for layout in layouts:
                yield {"T": T, "O": T, "MATH": math, "BM": rows, "BN": columns, "A_VECTOR": vector,
                       "B_VECTOR": vector, **constants, **layout}
