"""Matrices that compression is tested and timed on."""

from typing import NamedTuple


class Case(NamedTuple):
    """A name, rows, columns, rank of the factors, and a number of ranks."""

    name: str
    rows: int
    columns: int
    rank: int
    ranks: int


CASES = [Case("one", 1, 1, 1, 1), Case("odd", 37, 53, 2, 3), Case("alexnet conv2", 1200, 128, 4, 2),
         Case("alexnet fc8", 4096, 1000, 4, 2)]
