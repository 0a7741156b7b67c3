"""The shapes dense layers are tested and timed on: those of the nets, and a few awkward ones."""

from typing import NamedTuple


class Case(NamedTuple):
    """One layer: net and name, inputs and outputs."""

    net: str
    name: str
    channels: int
    filters: int

    def shapes(self, batch):
        """Shapes of x, w and y."""
        return (batch, self.channels), (self.channels, self.filters), (batch, self.filters)

    def flops(self, batch):
        """Multiplications and additions of any of the three passes."""
        return 2 * batch * self.channels * self.filters


CASES = [
    Case("alexnet", "fc6", 9216, 4096),
    Case("alexnet", "fc7", 4096, 4096),
    Case("alexnet", "fc8", 4096, 1000),
    Case("googlenet", "aux/fc1", 2048, 1024),
    Case("googlenet", "classifier", 1024, 1000),
    Case("resnet50", "fc", 2048, 1000),
    Case("odd", "one", 1, 1),
    Case("odd", "tails", 131, 67),
]
