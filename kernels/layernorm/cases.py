"""Tokens of the Transformer and of its mini, and small odd ones."""

from typing import NamedTuple


class Case(NamedTuple):
    """M tokens, C channels."""

    name: str
    M: int
    C: int

    @property
    def bytes(self):
        """Forward reads x and writes y; backward reads dy and x and writes dx, half as much again."""
        return 2 * 4 * self.M * self.C


CASES = [
    Case("transformer", 16 * 256, 256),
    Case("transformer-mini", 64 * 64, 64),
    Case("other channels", 64 * 64, 128),
    Case("few tokens, many channels", 7, 1000),
    Case("odd", 3, 17),
    Case("few channels", 5, 4),
    Case("one channel", 5, 1),
]
