"""Normalized layers of ResNet-50 (224 x 224) and of its mini, and small odd ones."""

from math import prod
from typing import NamedTuple


class Case(NamedTuple):
    """One layer; `add`: a residual joins before the rectifier."""

    name: str
    shape: tuple  # x: (N,H,W,C)
    add: bool = False

    @property
    def bytes(self):
        """Forward reads x twice, and the residual, and writes y."""
        return (4 if self.add else 3) * 4 * prod(self.shape)

    @property
    def backward_bytes(self):
        """Reads dy, y and x, writes dy; reads dy and x, writes dx."""
        return 7 * 4 * prod(self.shape)


CASES = [
    Case("resnet50 conv1", (16, 112, 112, 64)),
    Case("resnet50 2a", (16, 56, 56, 64)),
    Case("resnet50 2a out", (16, 56, 56, 256), add=True),
    Case("resnet50 4a", (16, 14, 14, 256)),
    Case("resnet50 5a out", (16, 7, 7, 2048), add=True),
    Case("resnet-mini", (16, 32, 32, 16), add=True),
    Case("odd channels", (3, 5, 7, 11), add=True),
    Case("one row", (1, 1, 1, 5)),
    Case("one channel", (2, 9, 31, 1)),
]
