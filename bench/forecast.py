"""What a step will take by each schedule on these ranks: from a profile of computing, and of messages beside it."""

import itertools
import statistics
import time

import numpy as np

from mpilayer.base.tracing import Trace
from mpilayer.compression import COMPRESSORS
from mpilayer.exchange.messages import buckets_of
from mpilayer.exchange.probe import SIZES, Probe
from mpilayer.model.profile import Profile, profile
from mpilayer.model.programs import WHOLE_LAYERS, Work
from mpilayer.model.step import predict
from mpilayer.model.wire import Measured, Wire
from mpilayer.mpi.link_model import LinkModel
from mpilayer.mpi.ranks import Ranks
from mpilayer.schedules.make import make_schedule

LEAST = 0.3  # of the mean time a byte, what is left without latency and credit
WHOLE = 4.0  # seconds that a message of all bytes may take
LONG = 0.1  # seconds beyond latency that the longest message takes at least, if there is one
PAUSE = 0.02  # seconds before a message, after which the link is as after computing
MOST_CREDIT = 0.5  # of what it carries in a pause
FEW, MANY = 2, 16  # messages of the same bytes in all, beside computing
COPIED = 1 << 26  # bytes
ROUNDS, STEPS, ENOUGH = 5, 20, 1.0  # readings; steps of a profile, of which so many seconds are enough


def computing(net, batch, optimizer):
    """The Profile of a net on this rank: layer-wise steps by itself, so that what posting and settling take counts."""
    with Ranks(this_rank()) as alone:
        trace = Trace(keep=STEPS)
        schedule = make_schedule("layerwise", net, alone, optimizer, trace=trace, progress="none", bucket=0, chunk=None)
        begun = time.monotonic()
        for step in range(STEPS + 1):
            schedule.step(step, batch)
            if step >= ROUNDS and time.monotonic() > begun + ENOUGH:
                break
        schedule.drain()
        schedule.channel.close()
    found = profile(net, trace.durations())
    return found.scaled(trace.period() / found.compute)


def this_rank():
    """A communicator of it."""
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
    """(Measured, of messages while all ranks wait; bytes that pass at once after a pause, from the time a byte by which
    large ones differ). One of `largest` bytes is among them if that does not take too long.
    """
    first, sizes, times = probe.seconds(SIZES[0]), [], []
    while not times or (sizes[-1] < largest and times[-1] - first < LONG):
        sizes.append(min(largest, 2 * sizes[-1]) if sizes else min(largest, SIZES[1]))
        times.append(probe.seconds(sizes[-1], PAUSE))
    pairs = itertools.combinations(zip(sizes[-3:], times[-3:], strict=True), 2)
    per_byte = max(statistics.median((after - before) / (more - less) for (less, before), (more, after) in pairs)
                   if len(sizes) > 1 else 0.0, LEAST * times[-1] / sizes[-1])
    some = [pair for pair in zip(sizes, times, strict=True) if pair[0] <= SIZES[2]][-3:]  # a larger one's error is more
    passed = statistics.median(size - (seconds - first) / per_byte for size, seconds in some)
    credit = min(max(0.0, passed), MOST_CREDIT * PAUSE / per_byte)
    if sizes[-1] < largest < WHOLE / per_byte:
        sizes.append(largest)
        times.append(max(times[-1], probe.seconds(largest, PAUSE, 2)))
    least = 1.01 * first
    for number, seconds in enumerate(times):
        least = times[number] = max(least, seconds + min(credit, sizes[number]) * per_byte)
    return Measured(first, tuple(sizes), tuple(times)), credit


def beside(probe, ranks, settings, size, credit):
    """(LinkModel of messages while ranks compute, that of what they take from computing), with so many bytes."""
    compute, alone = probe.computation(ranks.bcast(2 * probe.seconds(size)))
    trials = {count: [probe.beside(size, count, settings, compute) for _ in range(ROUNDS)] for count in (FEW, MANY)}
    (few, slow_few), (many, slow_many) = (
        np.array([statistics.median(column) for column in zip(*trials[count], strict=True)]) for count in (FEW, MANY))
    latency = max(0.0, settings.lanes * (many - few) / (MANY - FEW))
    busy = LinkModel(latency, max(few - FEW * latency / settings.lanes, 0.5 * few) / (size - min(credit, size / 2)))
    each = max(0.0, (slow_many - slow_few) / (MANY - FEW))
    return busy, LinkModel(each, max(0.0, slow_few - FEW * each - alone) / size)


def measured_wire(ranks, settings, largest):
    """The Wire between these ranks, for sums of up to `largest` bytes; all of them call this together."""
    probe = Probe(ranks, settings)
    idle, credit = link(probe, largest)
    size = min(largest, max(SIZES[1], int(0.1 / idle.per_byte)))
    busy, core = beside(probe, ranks, settings, size, credit)
    probe.close()
    numbers = [number for each in (busy, core) for number in (each.latency, each.per_byte)]
    *means, credit = (ranks.total(np.array([*numbers, credit])) / ranks.size).tolist()
    return Wire(ranks.bcast(idle), LinkModel(*means[:2]), LinkModel(*means[2:]), credit, settings.lanes,
                one_way(ranks))


def one_way(ranks):
    """Seconds of a small message from rank to rank: half of there and back between the first and the last."""
    first, last, byte, times = 0, ranks.size - 1, np.zeros(1, np.uint8), []
    for _ in range(ROUNDS):
        ranks.meet()
        begin = time.perf_counter()
        for sender, receiver in ((first, last), (last, first)):
            if ranks.rank == sender:
                ranks.wait(ranks.comm.Isend(byte, receiver))
            elif ranks.rank == receiver:
                ranks.wait(ranks.comm.Irecv(byte, sender))
        times.append(time.perf_counter() - begin)
    return ranks.bcast(statistics.median(times)) / 2


def copying():
    """Seconds in which this rank copies a byte that no cache has."""
    some, other = np.ones((2, COPIED), np.uint8)
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        other[:] = some
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / COPIED


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
        self.ranks, self.copy = ranks.size, float(ranks.total(np.array([copying()]))[0] / ranks.size)

    def _work(self, schedule):
        whole = schedule in WHOLE_LAYERS
        compressor = COMPRESSORS[self.settings.wire](**dict(self.settings.wire_options))
        bucket, chunk = (0, None) if whole else (self.settings.bucket, self.settings.chunk)
        buckets = buckets_of(self.net, compressor, bucket, chunk, self.ranks)
        return Work(self.profile, self.net.layers, buckets, self.copy)

    def predict(self, schedule, **how):
        """The Prediction of a step by a schedule, a key of PROGRAMS."""
        return predict(schedule, self._work(schedule), self.wire, **how)
