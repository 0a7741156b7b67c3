"""The arrays that SiLU is tested and timed on."""

from typing import NamedTuple


class Case(NamedTuple):
    """A name and a shape."""

    name: str
    shape: tuple


CASES = [Case("one", (1,)), Case("odd", (3, 5, 7)), Case("efficientnet stem", (16, 112, 112, 32))]
