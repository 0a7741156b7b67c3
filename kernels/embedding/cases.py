"""The Transformer's embedding, one of a large vocabulary, and small odd ones."""

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """N sequences of T tokens from a vocabulary of V, of which `used` occur; C channels, as many positions as P."""

    name: str
    N: int
    T: int
    V: int
    C: int
    P: int
    used: int

    @property
    def bytes(self):
        """Forward reads a row of the table and writes one of y for each token; backward the other way round."""
        return 2 * 4 * self.N * self.T * self.C

    def tokens(self):
        """(N,T) int64, `used` different ones, the same each time."""
        return np.random.default_rng(0).integers(0, self.used, (self.N, self.T)) * (self.V // self.used)


CASES = [
    Case("transformer", 16, 256, 256, 256, 256, 100),
    Case("large vocabulary", 4, 64, 50257, 16, 100, 50257),
    Case("one token only", 300, 100, 5, 3, 100, 1),
    Case("one", 1, 1, 1, 1, 1, 1),
    Case("odd", 3, 7, 11, 13, 9, 11),
]
