"""What messages cost between these ranks, and what of it computing hides, by each way of progress: measured."""

import math
import statistics
import time
from typing import NamedTuple

import numpy as np

import kernels
from kernels import gpu
from mpilayer.compression.codecs import CODECS, Float32
from mpilayer.exchange.settings import LANES, MOST_LANES
from mpilayer.mpi import engine
from mpilayer.mpi.collectives import Calls
from mpilayer.mpi.engine import Engine
from mpilayer.mpi.levels import Levels
from mpilayer.mpi.link_model import LinkModel
from mpilayer.mpi.progress import MOVING, PROGRESS
from mpilayer.mpi.reductions import REDUCTIONS

SIZES = (4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20)  # bytes of float32
ENOUGH = 0.05  # seconds after which no larger message is tried
READINGS = 5
LONGEST = 4096  # rows of the dense layer that computes
MOST_PIECES = 64
NOTHING = np.zeros(1, np.float32)


def operands(rows=64):
    """Of the computation that messages are hidden behind: a dense layer."""
    return np.zeros((rows, 1024), np.float32), np.zeros((1024, 1024), np.float32)


class Overlap(NamedTuple):
    """Seconds of a computation with messages in flight, means over the ranks: starting them, computing, then waiting.

    mpi     of computing, what went into moving messages on the same thread
    looks   of who moves them, for each message
    """

    post: float
    compute: float
    exposed: float
    mpi: float
    looks: float

    @property
    def total(self):
        """All three."""
        return self.post + self.compute + self.exposed


class Probe:
    """Sums over the ranks of arrays of nothing, as `settings` say."""

    def __init__(self, ranks, settings):
        self.ranks, self.settings, self.calls = ranks, settings, Calls(ranks)
        self.reduction = REDUCTIONS[settings.reduction](self.calls)
        self.codec = CODECS.get(settings.wire, Float32)  # what is compressed is measured as if it were not

    def _engine(self, size, pieces, lanes):
        """An engine with one slot of `size` bytes of float32 in so many messages."""
        buffer = self.codec.buffer(kernels.pages(size // 4))
        self.reduction.share(buffer)
        operations = [self.reduction.operations(part, number % lanes)
                      for number, part in enumerate(np.array_split(buffer, pieces))]
        return Engine([operations], lanes, self.calls.test)

    def _send(self, engine):
        for message in range(engine.ready.size):
            engine.mark(0, message, ready=True)
        engine.advance()

    def _wait(self, engine):
        self.ranks.until(lambda: engine.advance() or engine.quiet, "the measurement at start-up",
                         lambda pause: engine.rest(pause, engine.arrivals))

    def seconds(self, size, pause=0.0, count=READINGS):
        """Median time of a sum of so many bytes of float32, everyone beginning together, after a pause of so many
        seconds; of the slowest rank.
        """
        engine, readings = self._engine(size, 1, 1), []
        for _ in range(count + 1):
            time.sleep(pause)
            self.ranks.meet()
            start = time.perf_counter()
            self._send(engine)
            self._wait(engine)
            readings.append(time.perf_counter() - start)
        return self.ranks.most(statistics.median(readings[1:]))

    def link(self, largest):
        """The LinkModel, from messages of up to `largest` bytes of float32."""
        times = {}
        for size in sorted({min(size, max(largest, SIZES[0])) for size in SIZES}):
            times[size] = self.seconds(size)
            if times[size] > ENOUGH:
                break
        return LinkModel.between(*min(times.items()), *max(times.items()))

    def close(self):
        """Give back what MPI made for this."""
        self.calls.free()

    def overlap(self, size, chunk, rounds=3):
        """(seconds of communication alone, of computing alone, {way of progress: Overlap}), about as much of both.

        The communication is a sum of `size` bytes of float32 in pieces of `chunk` bytes, the computing as few and as
        long kernels as a net's largest. Of the ways that MPI bears on all ranks: medians of so many rounds, in which
        they take turns, and of these the means over the ranks.
        """
        pieces = max(1, min(size // chunk, MOST_PIECES))
        engine = self._engine(size, pieces, LANES)
        alone = statistics.median(self._trial(engine, _nothing).total for _ in range(rounds))
        compute, seconds = self.computation(self.ranks.bcast(alone))
        ways = {name: way for name, way in PROGRESS.items() if self.ranks.all(bears(self.ranks, name))}
        found = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                engine = self._engine(size, pieces, LANES if name in MOVING else MOST_LANES)
                with way(engine) as move:
                    found[name].append(self._trial(engine, lambda: compute(move)))  # noqa: B023
        return alone, seconds, {name: self._means(trials) for name, trials in found.items()}

    def _means(self, trials):
        medians = np.array([statistics.median(column) for column in zip(*trials, strict=True)])
        return Overlap(*(self.ranks.total(medians) / self.ranks.size).tolist())

    def computation(self, seconds):
        """(a function that computes for about so long and calls its argument between kernels, how long it takes)."""
        x, w = operands()
        for _ in range(2):  # of many rows, each takes less
            once = min(_timed(lambda: kernels.dense(x, w)) for _ in range(3))  # noqa: B023
            rows = max(1, round(self.ranks.bcast(seconds / once) * len(x)))
            calls = math.ceil(rows / LONGEST)
            x, w = operands(math.ceil(rows / calls))

        def compute(move):
            for _ in range(calls):
                kernels.dense(x, w)
                move()

        return compute, statistics.median(_timed(lambda: compute(_nothing)) for _ in range(3))

    def beside(self, size, pieces, settings, compute):
        """(seconds in which messages were in flight, seconds of computing meanwhile), `size` bytes in so many pieces;
        compute(function to be called between kernels) takes longer than the messages do.
        """
        engine = self._engine(size, pieces, settings.lanes)
        with PROGRESS[settings.progress](engine, settings.link, self.ranks.size) as move:
            trial = self._trial(engine, lambda: compute(move))
        return engine.busy(), trial.compute + trial.post

    def _trial(self, engine, compute):
        self.ranks.meet()
        times = [time.perf_counter()]
        self._send(engine)
        inside = engine.inside()
        times.append(time.perf_counter())
        compute()
        inside = engine.inside() - inside
        times.append(time.perf_counter())
        self._wait(engine)
        times.append(time.perf_counter())
        return Overlap(*np.diff(times).tolist(), inside, engine.looks / engine.ready.size)


def _nothing():
    """No computation, or nothing between kernels."""


def _timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def warm(settings, weights=NOTHING):
    """Compile what messages need, or find it on disk; weights lie where gradients do."""
    engine.warm()
    gradients, codec = np.zeros_like(weights, shape=1), CODECS.get(settings.wire, Float32)
    buffer, feedback = codec.buffer(gradients), dict(settings.wire_options).get("error_feedback")
    codec.encode(gradients, buffer, gradients.copy() if feedback else None)
    codec.decode(buffer, gradients)
    kernels.sum_of_squares(gradients)
    REDUCTIONS.get(settings.reduction, Levels).warm(buffer.dtype)
    if not gpu.is_array(weights):
        kernels.dense(*operands())


def bears(ranks, progress):
    """Whether this rank's MPI bears the threads that would call it."""
    threads = progress == "thread" or (progress == "kernel" and kernels.num_threads() > 1)
    return not threads or ranks.MPI.Query_thread() >= ranks.MPI.THREAD_SERIALIZED
