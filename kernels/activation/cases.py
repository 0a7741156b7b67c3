"""Activations of AlexNet (227 x 227) and GoogLeNet (224 x 224), and small odd ones."""

from math import prod
from typing import NamedTuple


class Case(NamedTuple):
    """One array to be rectified or dropped out."""

    name: str
    shape: tuple

    @property
    def bytes(self):
        """Bytes of one array: relu and dropout move two, relu_backward three; a mask is a quarter."""
        return 4 * prod(self.shape)


CASES = [
    Case("alexnet conv1", (16, 55, 55, 96)),
    Case("alexnet conv5", (16, 13, 13, 256)),
    Case("alexnet fc6", (256, 4096)),
    Case("googlenet conv1", (16, 112, 112, 64)),
    Case("googlenet conv2", (16, 56, 56, 192)),
    Case("googlenet pool5", (32, 1, 1, 1024)),
    Case("one", (1,)),
    Case("odd", (3, 5, 7)),
    Case("no dimension", ()),
]
