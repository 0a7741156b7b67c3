"""How long messages take, while ranks wait for them and while they compute."""

import bisect
from typing import NamedTuple

from mpilayer.mpi.link_model import LinkModel


class Measured(NamedTuple):
    """As a LinkModel, between sums of some `sizes` that took so many `seconds`, and beyond them."""

    latency: float
    sizes: tuple
    seconds: tuple

    @property
    def per_byte(self):
        """Of the largest, the mean."""
        return (self.seconds[-1] - self.latency) / self.sizes[-1]

    def parts(self, size):
        """(latency, seconds of the transfer) of a sum of so many bytes."""
        sizes, seconds = (0, *self.sizes), (self.latency, *self.seconds)
        after = max(1, bisect.bisect_left(sizes, size))
        if after == len(sizes):
            return self.latency, seconds[-1] - self.latency + (size - sizes[-1]) * self.per_byte
        slope = (seconds[after] - seconds[after - 1]) / (sizes[after] - sizes[after - 1])
        return self.latency, seconds[after] + (size - sizes[after]) * slope - self.latency

    def __str__(self):
        return str(LinkModel(self.latency, self.per_byte))


MOST = 0.95  # of a core's time that messages take from computing
NOTHING = LinkModel(0.0, 0.0)


class Wire(NamedTuple):
    """What carries messages, one after the other, of which `lanes` may be in flight: their latencies overlap.

    idle     LinkModel, or what has its parts(): of a sum while all ranks wait for it
    busy     the same while any rank computes, and looks after messages now and then
    core     the same: for how long a rank moves a message and adds numbers instead of computing
    credit   bytes of float32 that pass at once after a pause: buffers, or a link whose rate is limited by tokens
    direct   seconds of a message of no bytes from rank to rank, of which any number may be in flight
    """

    idle: LinkModel
    busy: LinkModel
    core: LinkModel = NOTHING
    credit: float = 0.0
    lanes: int = 1
    direct: float = 0.0

    @classmethod
    def of(cls, link, lanes):
        """As fast while ranks compute."""
        return cls(link, link, LinkModel(0.0, link.core), 0.0, lanes)

    def _parts(self, size, computing):
        return (self.busy if computing else self.idle).parts(size)

    def occupied(self, size, computing, free=0.0, part=1.0):
        """Seconds for which a message of so many bytes of float32 keeps the link from others; some are `free`. It takes
        a part of a sum's latency, or none if it goes from rank to rank.
        """
        latency, transfer = self._parts(size, computing)
        return (part or 0.0) * latency / self.lanes + transfer * (1 - free / size if size else 1)

    def speed(self, size, free=0.0, part=1.0):
        """Of computing meanwhile, as a share of that without messages."""
        occupied = self.occupied(size, True, free, part)
        return 1 - min(MOST, sum(self.core.parts(size)) / occupied) if occupied else 1.0

    def lag(self, size, computing, part=1.0):
        """Seconds from then until it has arrived."""
        return self.direct if part is None else part * self._parts(size, computing)[0] * (1 - 1 / self.lanes)

    def refilled(self, credit, seconds, size=1 << 20):
        """What passes at once after a pause of so many seconds, if it was that before."""
        return min(self.credit, credit + seconds * size / self.idle.parts(size)[1]) if self.credit else 0.0
