"""Products as attention makes them, square ones, and a few awkward ones."""

from math import prod
from typing import NamedTuple


class Case(NamedTuple):
    """Leading dimensions, M, N and K."""

    name: str
    batch: tuple
    M: int
    N: int
    K: int

    def shapes(self, transpose_a, transpose_b):
        """Shapes of a and b as they are given."""
        a = (self.K, self.M) if transpose_a else (self.M, self.K)
        b = (self.N, self.K) if transpose_b else (self.K, self.N)
        return (*self.batch, *a), (*self.batch, *b)

    @property
    def flops(self):
        """Multiplications and additions."""
        return 2 * prod(self.batch) * self.M * self.N * self.K


CASES = [
    Case("attention scores", (4, 8), 128, 128, 64),
    Case("attention values", (4, 8), 128, 64, 128),
    Case("square", (), 512, 512, 512),
    Case("more than one sum", (2,), 65, 33, 2100),
    Case("one", (1,), 1, 1, 1),
    Case("odd", (3, 2), 29, 47, 19),
]
