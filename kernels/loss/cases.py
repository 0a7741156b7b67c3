"""ImageNet's thousand classes at the batches of AlexNet and GoogLeNet, and small odd ones."""

from typing import NamedTuple


class Case(NamedTuple):
    """N samples, C classes."""

    name: str
    N: int
    C: int

    @property
    def bytes(self):
        """Logits in, their gradient out, and a label and a loss a sample."""
        return self.N * (2 * 4 * self.C + 12)


CASES = [
    Case("alexnet", 256, 1000),
    Case("googlenet", 32, 1000),
    Case("one class", 3, 1),
    Case("odd", 5, 17),
]
