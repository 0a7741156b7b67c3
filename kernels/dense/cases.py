"""The shapes dense layers are tested and timed on: those of the nets, and a few awkward ones."""

from typing import NamedTuple


class Case(NamedTuple):
    """One layer: net and name, inputs and outputs, and how many rows of them a sample has."""

    net: str
    name: str
    channels: int
    filters: int
    rows: int = 1

    def shapes(self, batch):
        """Shapes of x, w and y."""
        M = batch * self.rows
        return (M, self.channels), (self.channels, self.filters), (M, self.filters)

    def flops(self, batch):
        """Multiplications and additions of any of the three passes."""
        return 2 * batch * self.rows * self.channels * self.filters


CASES = [
    Case("alexnet", "fc6", 9216, 4096),
    Case("alexnet", "fc7", 4096, 4096),
    Case("alexnet", "fc8", 4096, 1000),
    Case("googlenet", "aux/fc1", 2048, 1024),
    Case("googlenet", "classifier", 1024, 1000),
    Case("resnet50", "fc", 2048, 1000),
    Case("transformer", "qkv", 256, 768, 256),
    Case("transformer", "joined", 256, 256, 256),
    Case("transformer", "fc1", 256, 1024, 256),
    Case("transformer", "fc2", 1024, 256, 256),
    Case("odd", "one", 1, 1),
    Case("odd", "tails", 131, 67),
]
