"""Pooling layers of AlexNet (227 x 227) and GoogLeNet (224 x 224), and small odd ones."""

from math import prod
from typing import NamedTuple


class Case(NamedTuple):
    """One pooling layer."""

    name: str
    kind: str
    shape: tuple  # x: (N,H,W,C)
    window: int | tuple
    stride: int | tuple
    padding: int | tuple = 0
    ceil_mode: bool = False
    output: tuple = ()  # P, Q

    @property
    def bytes(self):
        """Bytes read and written, in either direction: x or dx, y or dy, and the index of a maximum."""
        N, _, _, C = self.shape
        return 4 * prod(self.shape) + N * prod(self.output) * C * (5 if self.kind == "max" else 4)


CASES = [
    Case("alexnet pool1", "max", (16, 55, 55, 96), 3, 2, output=(27, 27)),
    Case("alexnet pool2", "max", (16, 27, 27, 256), 3, 2, output=(13, 13)),
    Case("alexnet pool5", "max", (16, 13, 13, 256), 3, 2, output=(6, 6)),
    Case("googlenet pool1", "max", (16, 112, 112, 64), 3, 2, 0, True, (56, 56)),
    Case("googlenet pool2", "max", (16, 56, 56, 192), 3, 2, 0, True, (28, 28)),
    Case("googlenet 3a", "max", (16, 28, 28, 192), 3, 1, 1, output=(28, 28)),
    Case("googlenet 4e", "max", (16, 14, 14, 528), 3, 1, 1, output=(14, 14)),
    Case("googlenet pool4", "max", (16, 14, 14, 832), 3, 2, 0, True, (7, 7)),
    Case("googlenet 5b", "max", (16, 7, 7, 832), 3, 1, 1, output=(7, 7)),
    Case("googlenet loss1", "avg", (16, 14, 14, 512), 5, 3, output=(4, 4)),
    Case("googlenet pool5", "avg", (16, 7, 7, 1024), 7, 1, output=(1, 1)),
    Case("one pixel", "max", (1, 1, 1, 1), 1, 1, output=(1, 1)),
    Case("window over the edge", "avg", (3, 2, 2, 5), 3, 2, 0, True, (1, 1)),
    Case("rows unlike columns", "max", (2, 9, 4, 17), (2, 3), (3, 1), ((1, 0), (2, 1)), True, (4, 5)),
]
