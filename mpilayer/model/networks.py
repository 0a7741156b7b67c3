"""Sums over the ranks of networks that are not here: how long the algorithms of MPIs take, by latency, bytes and sums.

Thakur, Rabenseifner and Gropp 2005, Optimization of Collective Communication Operations in MPICH, has the formulas.
"""

import math
from typing import NamedTuple

from mpilayer.model.wire import Wire
from mpilayer.mpi.link_model import LOOK, LinkModel

ADDING = 1e-10  # seconds a byte of float32 that is added to another, by one core from memory
MESSAGE = 5e-7  # seconds of a core for each message that it sends or takes in
TYPICAL = 4 << 20  # bytes of a message
MEMORY = 1e10  # bytes a second that a core reads or writes of what other cores of its node have


class Network(NamedTuple):
    """What nodes are connected by.

    rate      bits a second into a node, and as many out of it
    latency   seconds of a message of no bytes from rank to rank
    cpu       seconds a byte that a core is busy with sending, and as many with receiving
    source    where the figures are from
    """

    rate: float
    latency: float
    cpu: float
    source: str


NETWORKS = {
    "1gbit-ethernet": Network(1e9, 24e-6, 5e-10, "TCP: 23.6 us and 118 MB/s, www.nw-grid.ac.uk/LivMPI; CPU assumed"),
    "25gbit-ethernet": Network(25e9, 10e-6, 2e-10, "line rate; latency and CPU assumed: TCP with large segments"),
    "hdr-infiniband": Network(200e9, 1e-6, 1e-11, "line rate; below 1 us, D. K. Panda, the MVAPICH2 project, SC18"),
    "slingshot": Network(200e9, 2e-6, 1e-11, "line rate, De Sensi et al. 2020, arXiv 2008.08886; latency assumed"),
}


class Sum(NamedTuple):
    """An algorithm of a sum of some bytes: messages one after the other, and seconds on the link and of a core."""

    name: str
    rounds: int
    wire: float
    core: float


def algorithms(network, ranks, per_node, size):
    """The Sums of so many bytes by each algorithm, on `ranks` ranks of which `per_node` share a node's link.

    Within a node all its ranks take a part each, so that what a core sends over the link is that part.
    """
    wire, nodes = 8 * size / network.rate, max(1, ranks // per_node)
    far, share, levels = 1 - 1 / nodes, 1 - 1 / ranks, math.ceil(math.log2(max(2, ranks)))
    across = math.ceil(math.log2(nodes)) if nodes > 1 else 0
    adding, local, send = share * size * ADDING, 2 * size / MEMORY * (per_node > 1), size * network.cpu
    yield Sum("ring", 2 * (ranks - 1), 2 * far * wire, adding + 2 * local + 4 * far * send)
    yield Sum("halving and doubling", 2 * levels, 2 * far * wire * per_node, adding + 2 * local + 4 * far * send)
    yield Sum("tree", levels, across * wire * per_node, levels * (size * ADDING + local) + 2 * across * send)
    if per_node > 1:
        sent = adding + local + 4 * far * send / per_node
        yield Sum("two levels", 2 + 2 * across, 2 * far * wire, sent)
        yield Sum("two levels, ring", 2 + 2 * (nodes - 1), 2 * far * wire, sent)


class Sums:
    """As a LinkModel, of the algorithm that is fastest for each size; each message of it waits `look` seconds until a
    rank that computes looks.
    """

    def __init__(self, network, ranks, per_node=1, look=0.0):
        self.network, self.ranks, self.per_node, self.look = network, ranks, per_node, look

    def candidates(self, size):
        """The Sums that there are of so many bytes."""
        return algorithms(self.network, self.ranks, self.per_node, size)

    def best(self, size):
        """The Sum of the least seconds."""
        return min(self.candidates(size), key=lambda each: sum(self._parts(each)))

    def _parts(self, found):
        return found.rounds * (self.network.latency + self.look), max(found.wire, found.core)

    def parts(self, size):
        """(latency, seconds of the transfer) of a sum of so many bytes: link and core work at the same time."""
        return self._parts(self.best(size)) if self.ranks > 1 else (0.0, 0.0)


class Direct(Sums):
    """Every rank sends a part to every other, and as much comes back: there and back, what a sum of the bytes moves."""

    def candidates(self, size):
        """One."""
        far, share = 1 - self.per_node / self.ranks, 1 - 1 / self.ranks
        yield Sum("direct", 1, 16 * size * far * self.per_node / self.network.rate, share * size * (
            ADDING + 4 * self.network.cpu + 2 / MEMORY) + 2 * (self.ranks - 1) * MESSAGE)


def wire_of(network, ranks, per_node=1, lanes=2, kind=Sums):
    """The Wire of a network, on which ranks that compute look after messages as often as mpilayer/mpi/progress.py has
    it: what comes waits for half of that time.
    """
    interval = link_of(network, ranks, per_node).interval(ranks)
    look = interval / 2
    busy = kind(network, ranks, per_node, look)
    some = busy.best(TYPICAL)
    looking = LOOK / interval * sum(busy.parts(TYPICAL))
    core = LinkModel(0.0, (some.core + looking) / TYPICAL if ranks > 1 else 0.0)
    direct = network.latency + look if ranks > 1 else 0.0
    return Wire(kind(network, ranks, per_node), busy, core, lanes=lanes, direct=direct)


def link_of(network, ranks, per_node=1):
    """The LinkModel that comes closest, for the sizes of messages."""
    sums, sizes = Sums(network, ranks, per_node), (4 << 10, 16 << 20)
    return LinkModel.between(*(number for size in sizes for number in (size, sum(sums.parts(size)))))
