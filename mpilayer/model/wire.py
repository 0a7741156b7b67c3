"""How long messages take, while ranks wait for them and while they compute."""

from typing import NamedTuple

from mpilayer.mpi.link_model import LinkModel

MOST = 0.95  # of a core's time that messages take from computing


class Wire(NamedTuple):
    """What carries messages, one after the other, of which `lanes` may be in flight: their latencies overlap.

    idle     LinkModel, or what has its parts(): of a sum while all ranks wait for it
    busy     the same while any rank computes, and looks after messages now and then
    core     seconds a byte of float32 for which a rank moves messages and adds numbers instead of computing
    """

    idle: LinkModel
    busy: LinkModel
    core: float = 0.0
    lanes: int = 1

    @classmethod
    def of(cls, link, lanes):
        """As fast while ranks compute."""
        return cls(link, link, link.core, lanes)

    def occupied(self, size, computing):
        """Seconds for which a message of so many bytes of float32 keeps the link from others."""
        latency, transfer = (self.busy if computing else self.idle).parts(size)
        return latency / self.lanes + transfer

    def speed(self, size):
        """Of computing while a message of so many bytes keeps the link, as a share of that without."""
        occupied = self.occupied(size, True)
        return 1 - min(MOST, self.core * size / occupied) if occupied else 1.0

    def lag(self, size, computing):
        """Seconds from then until it has arrived."""
        latency, _ = (self.busy if computing else self.idle).parts(size)
        return latency * (1 - 1 / self.lanes)
