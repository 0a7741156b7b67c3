"""The Transformer's attention, its mini's, and small odd ones."""

from typing import NamedTuple


class Case(NamedTuple):
    """Net and name; N sequences of T tokens, heads of D channels."""

    net: str
    name: str
    N: int
    T: int
    heads: int
    D: int

    def shapes(self, batch):
        """The shape of qkv, of so many sequences."""
        return ((batch, self.T, 3 * self.heads * self.D),)

    def flops(self, batch):
        """Of the forward pass: scores up to the diagonal, and as many products with values; backward takes 2.5x."""
        return 2 * 2 * batch * self.heads * self.D * self.T * (self.T + 1) // 2


CASES = [
    Case("transformer", "attention", 16, 256, 8, 32),
    Case("odd", "mini", 16, 64, 4, 16),
    Case("odd", "long", 1, 1024, 2, 64),
    Case("odd", "wide heads", 2, 130, 1, 80),
    Case("odd", "one token", 3, 1, 2, 4),
    Case("odd", "odd", 2, 37, 3, 5),
]
