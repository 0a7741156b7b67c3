"""How products are cut for a GPU: the size of a block's tile, and into how many parts a long sum goes."""

from typing import NamedTuple

import numpy as np

from kernels import gpu
from kernels.arguments import require

STAGES, LINE = 3, 128  # as product.cuh has them: tiles in shared memory, bytes of a line by k
TILES = ((128, 128), (128, 64), (64, 64))
LEAST_TILES = 8  # of k that a part has at least, or writing it would take as long as computing it
MOST_PARTS = 64
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
        return STAGES * (self.rows + self.columns) * LINE

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


def cut(M, N, K, times, a, b, out, *, lines, split=True):
    """For `times` products of (M,K) and (K,N): the largest tile that gives every multiprocessor a block, perhaps of a
    part of the sums, or else the smallest; and parts until each has two.

    `lines`: the sizes of which 16 bytes must be a divisor in a and in b, or they are copied number by number.
    """
    whole = [int(all(gpu.pack(size, array) > 1 for size in sizes)) for array, sizes in zip((a, b), lines, strict=True)]
    operands = {"T": gpu.number(a), "O": gpu.number(out), "MATH": math() if a.dtype == "float32" else "BF16",
                "A_VECTOR": whole[0], "B_VECTOR": whole[1]}
    wanted, most = gpu.multiprocessors(), min(K // (LEAST_TILES * LINE // a.itemsize), MOST_PARTS) if split else 1

    def blocks(tile):
        return -(-M // tile[0]) * -(-N // tile[1]) * times

    def parts(tile):
        return max(1, min(2 * wanted // blocks(tile), most))

    fitting = (tile for tile in TILES if tile[1] <= max(N, 64) and all(whole))
    tile = next((tile for tile in fitting if blocks(tile) * parts(tile) >= wanted), TILES[-1])
    return Cut(*tile, parts(tile), operands)


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
        for rows, columns, vector in (*((*tile, 1) for tile in TILES), (*TILES[-1], 0)):
            for layout in layouts:
                yield {"T": T, "O": T, "MATH": math, "BM": rows, "BN": columns, "A_VECTOR": vector,
                       "B_VECTOR": vector, **constants, **layout}
