"""Sizes of parameter arrays the update is tested and timed on."""

from typing import NamedTuple


class Case(NamedTuple):
    """A name and a number of parameters."""

    name: str
    size: int

    @property
    def bytes(self):
        """Read w, g and v, write w and v."""
        return 5 * 4 * self.size


CASES = [Case("one", 1), Case("odd", 1000003), Case("alexnet fc7", 4096 * 4096 + 4096)]
