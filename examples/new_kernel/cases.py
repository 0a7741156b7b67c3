"""The shapes that check.py is called with: those of real layers, and odd ones."""

from typing import NamedTuple


class Case(NamedTuple):
    """A name, the shape of x, and the slope."""

    name: str
    shape: tuple
    slope: float = 0.01


CASES = [
    Case("resnet50 2a", (2, 56, 56, 64)),
    Case("large slope", (3, 5, 7), 0.5),
    Case("one", (1,)),
]
