"""What transforms (Winograd) would cost in accuracy if their products were of bfloat16, and what they would save.

A 3x3 convolution of bfloat16 numbers by F(m x m, 3 x 3) in float64, with transformed numbers rounded to one bfloat16 or
to a sum of two.
"""

import argparse
import itertools

import numpy as np
from rich.table import Table

from bench import options as shared
from bench.rows import console
from kernels.conv2d import transform
from kernels.gpu import bfloat16

OUTPUTS = 2, 4  # m
PARTS = (1, 1), (2, 1), (1, 2), (2, 2)  # bfloat16 numbers that stand for one of the data, and of the filters
SQUARES, CHANNELS, FILTERS = 24, 256, 32


def rounded(array):
    """To bfloat16."""
    return array.astype(bfloat16()).astype(np.float64)


def _split(array, parts):
    """The array as a sum of so many of bfloat16, the largest first."""
    found = []
    for _ in range(parts):
        found.append(rounded(array))
        array = array - found[-1]
    return found


def error(m, data_parts, filter_parts, seed):
    """Of results, relative to the largest one."""
    a, g, b = (np.array(matrix, float) for matrix in transform.matrices(m, 3))
    rng = np.random.default_rng(seed)
    data = rounded(rng.standard_normal((SQUARES, CHANNELS, m + 2, m + 2)))
    filters = rounded(rng.standard_normal((CHANNELS, FILTERS, 3, 3)))
    points = [_split(np.einsum("ij,abjl,ml->abim", matrix, array, matrix), parts)
              for matrix, array, parts in ((b, data, data_parts), (g, filters, filter_parts))]
    kept = max(data_parts, filter_parts)  # the product of two small parts is too small to count
    sums = sum(np.einsum("scij,ckij->skij", points[0][i], points[1][j], optimize=True)
               for i, j in itertools.product(range(data_parts), range(filter_parts)) if i + j < kept)
    y = np.einsum("ij,skjl,ml->skim", a, sums, a)
    windows = np.lib.stride_tricks.sliding_window_view(data, (3, 3), (2, 3))
    want = np.einsum("scpqrt,ckrt->skpq", windows, filters, optimize=True)
    return float(np.abs(y - want).max() / np.abs(want).max())


def saved(m, data_parts, filter_parts):
    """Products of a direct convolution for each of these, all of bfloat16."""
    return 9 * m * m / (m + 2) ** 2 / (data_parts + filter_parts - 1)


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m bench transforms", description=__doc__)
    p.add_argument("--seed", type=int, default=0, help="of the numbers (default: 0)")
    shared.add_json(p)
    return p


def main(argv):
    """Compute, print, and save."""
    options = parser().parse_args(argv)
    rows = [{"outputs": m, "data_parts": d, "filter_parts": f, "saved": saved(m, d, f),
             "error": error(m, d, f, options.seed)} for m in OUTPUTS for d, f in PARTS]
    table = Table("outputs", "bfloat16 for a datum", "for a filter's", "products saved", "error")
    for row in rows:
        table.add_row(f"{row['outputs']}x{row['outputs']}", str(row["data_parts"]), str(row["filter_parts"]),
                      f"{row['saved']:.2f}", f"{row['error']:.1e}")
    console().print(table)
    console().print("next to float32, which multiplies half as fast: 2.00 saved by 4x4, error below 2e-5")
    shared.save(options, rows)
