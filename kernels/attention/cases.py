"""The Transformer's attention, its mini's, and small odd ones."""

from typing import NamedTuple


class Case(NamedTuple):
    """N sequences of T tokens, heads of D channels."""

    name: str
    N: int
    T: int
    heads: int
    D: int

    @property
    def shape(self):
        """The shape of qkv."""
        return self.N, self.T, 3 * self.heads * self.D

    @property
    def flops(self):
        """Of the forward pass: scores up to the diagonal, and as many products with values; backward takes 2.5x."""
        return 2 * 2 * self.N * self.heads * self.D * self.T * (self.T + 1) // 2


CASES = [
    Case("transformer", 16, 256, 8, 32),
    Case("transformer-mini", 16, 64, 4, 16),
    Case("long", 1, 1024, 2, 64),
    Case("wide heads", 2, 130, 1, 80),
    Case("one token", 3, 1, 2, 4),
    Case("odd", 2, 37, 3, 5),
]
