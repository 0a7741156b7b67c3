"""Sizes of gradients the wire is tested and timed on."""

from typing import NamedTuple


class Case(NamedTuple):
    """A name, a number of parameters, and a number of ranks."""

    name: str
    size: int
    ranks: int


CASES = [Case("one", 1, 1), Case("odd", 1000003, 3), Case("alexnet fc7", 4096 * 4096 + 4096, 4)]
