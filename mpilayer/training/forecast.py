"""What a step will take by each schedule on these ranks: from a profile of computing, and of messages beside it."""

import statistics

import numpy as np

from mpilayer.base.tracing import Trace
from mpilayer.compression import COMPRESSORS
from mpilayer.exchange.messages import buckets_of
from mpilayer.exchange.probe import SIZES, Probe
from mpilayer.model.profile import Profile, profile
from mpilayer.model.programs import PROGRAMS, WHOLE_LAYERS, Work
from mpilayer.model.step import predict
from mpilayer.model.wire import Wire
from mpilayer.mpi.link_model import LinkModel
from mpilayer.mpi.ranks import Ranks
from mpilayer.schedules.make import make_schedule

LONG = 0.25  # seconds that the longest message takes at most
FEW, MANY = 2, 16  # messages of the same bytes in all, beside computing
ROUNDS = 5


def computing(net, batch, optimizer, steps=ROUNDS):
    """The Profile of a net on this rank: layer-wise steps by itself, so that what posting and settling take counts."""
    with Ranks(net_alone()) as alone:
        trace = Trace(keep=steps)
        schedule = make_schedule("layerwise", net, alone, optimizer, trace=trace, progress="none", bucket=0, chunk=None)
        for step in range(steps + 1):
            schedule.step(step, batch)
        schedule.drain()
        schedule.channel.close()
    found = profile(net, trace.durations())
    return found.scaled(trace.period() / found.compute)


def net_alone():
    """A communicator of this rank."""
    from mpi4py import MPI

    return MPI.COMM_SELF


def of_all(ranks, found):
    """The means over the ranks of a Profile."""
    parts = [*found.backward.values(), found.tail, found.head, *found.forward.values()]
    means = (ranks.total(np.array(parts)) / ranks.size).tolist()
    count = len(found.backward)
    return Profile(dict(zip(found.backward, means, strict=False)), *means[count:count + 2],
                   dict(zip(found.forward, means[count + 2:], strict=True)))


def link(probe, largest):
    """The LinkModel of messages while all ranks wait: its time a byte from two large ones, so that what the system
    takes in at once does not count.
    """
    first, size, times = probe.seconds(SIZES[0]), SIZES[0], []
    while size < largest and (not times or times[-1][1] < LONG):
        size = min(largest, 2 * size)
        times.append((size, probe.seconds(size)))
    if len(times) < 3:
        return LinkModel.between(SIZES[0], first, *(times or [(SIZES[0], first)])[-1])
    (some, before), (most, after) = times[-3], times[-1]
    return LinkModel(first, max(after - before, 0.1 * after) / (most - some))


def beside(probe, ranks, settings, size):
    """(LinkModel of messages while ranks compute, seconds a byte that they take from computing), with so many bytes."""
    compute, alone = probe.computation(ranks.bcast(2 * probe.seconds(size)))
    trials = {count: [probe.beside(size, count, settings, compute) for _ in range(ROUNDS)] for count in (FEW, MANY)}
    (few, slow_few), (many, slow_many) = (
        np.array([statistics.median(column) for column in zip(*trials[count], strict=True)]) for count in (FEW, MANY))
    latency = max(0.0, settings.lanes * (many - few) / (MANY - FEW))
    busy = LinkModel(latency, max(few - FEW * latency / settings.lanes, 0.5 * few) / size)
    return busy, max(0.0, (slow_few + slow_many) / 2 - alone) / size


def measured_wire(ranks, settings, largest):
    """The Wire between these ranks, for sums of up to `largest` bytes; all of them call this together."""
    probe = Probe(ranks, settings)
    idle = link(probe, largest)
    size = min(largest, max(SIZES[1], int(0.1 / idle.per_byte)))
    busy, core = beside(probe, ranks, settings, size)
    probe.close()
    numbers = ranks.total(np.array([*idle, *busy, core])) / ranks.size
    return Wire(LinkModel(*numbers[:2].tolist()), LinkModel(*numbers[2:4].tolist()), float(numbers[4]), settings.lanes)


class Forecast:
    """Of a net and a batch on ranks; all of them make it together.

    profile   Profile          wire   Wire
    """

    def __init__(self, ranks, net, batch, optimizer, settings):
        self.net, self.settings = net, settings
        net.write_gradients_to(0)
        ranks.meet()
        self.profile = of_all(ranks, computing(net, batch, optimizer))
        self.wire = measured_wire(ranks, settings, net.weights.nbytes)
        self.ranks = ranks.size

    def work(self, schedule, chunk):
        """The Work of a schedule, whose messages are cut at `chunk` bytes."""
        whole = schedule in WHOLE_LAYERS
        compressor = COMPRESSORS[self.settings.wire](**dict(self.settings.wire_options))
        buckets = buckets_of(self.net, compressor, 0 if whole else self.settings.bucket, None if whole else chunk,
                             self.ranks)
        return Work(self.profile, self.net.layers, buckets)

    def predict(self, schedule, **how):
        """The Prediction of a step; None for a schedule that there is no simulation of."""
        if schedule not in PROGRAMS:
            return None
        return predict(schedule, self.work(schedule, self.settings.chunk), self.wire, **how)
