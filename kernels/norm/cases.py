"""Normalization layers of AlexNet (227 x 227) and GoogLeNet (224 x 224), and small odd ones."""

from math import prod
from typing import NamedTuple


class Case(NamedTuple):
    """One normalization layer."""

    name: str
    shape: tuple  # x: (N,H,W,C)
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    @property
    def bytes(self):
        """Forward reads x and writes y; backward moves twice that: dy, x and y in, dx out."""
        return 2 * 4 * prod(self.shape)


CASES = [
    Case("alexnet norm1", (16, 55, 55, 96)),
    Case("alexnet norm2", (16, 27, 27, 256)),
    Case("googlenet norm1", (16, 56, 56, 64)),
    Case("googlenet norm2", (16, 56, 56, 192)),
    Case("fewer channels than the window", (2, 3, 1, 2), 5, 0.5, 0.75, 2.0),
    Case("even window, other power", (3, 2, 5, 17), 4, 1.5, 0.6, 1.0),
    Case("window of one", (1, 1, 1, 1), 1, 1.0, 0.75, 1.0),
]
