"""What this MPI, these nodes and these cores need: measured at start-up, for options that say `auto`."""

import math
import statistics
import time
from typing import NamedTuple

import numpy as np

import kernels
from kernels import gpu
from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.compression.codecs import CODECS, Float32
from mpilayer.exchange.opening import REMEDY
from mpilayer.exchange.settings import AUTO, LANES, MOST_LANES, settings_of
from mpilayer.mpi import engine, levels
from mpilayer.mpi.agreement import compare
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
GAIN = 0.97  # a way of progress must bring this much to be preferred to a simpler one


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
        ways = {name: way for name, way in PROGRESS.items() if self.ranks.all(_bears(self.ranks, name))}
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
        with PROGRESS[settings.progress](engine, settings.link.per_byte) as move:
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


def typical(largest, link):
    """Bytes of a sum that takes long enough to be measured, but not more than `largest`."""
    return min(largest, max(SIZES[0], int(ENOUGH / link.per_byte)))


def best(overlaps):
    """The simplest way of progress of which none is clearly faster."""
    chosen, *others = overlaps
    for name in others:
        if overlaps[name].total < GAIN * overlaps[chosen].total:
            chosen = name
    return chosen


def in_words(count):
    """Bytes in words."""
    if count is None:
        return "any size"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _unmeasured(ranks, settings, weights):
    """With what needs no measurement in place of "auto": one message, poll, sums in memory that all ranks share."""
    plain = {"progress": "poll", "bucket": None, "chunk": None, "reduction": "native"}
    if "reduction" in settings.auto and ranks.node.size == ranks.size and _may_share(ranks, settings, weights):
        plain["reduction"] = "levels"
    return settings._replace(**{name: plain[name] for name in settings.auto})


def _may_share(ranks, settings, weights):
    """Whether the ranks of a node can sum gradients in common memory; all ranks call this together."""
    able = not gpu.is_array(weights) and not COMPRESSORS[settings.wire].own_sums
    return able and ranks.most(ranks.node.size) > 1 and not levels.missing(ranks)


def _bears(ranks, progress):
    """Whether this rank's MPI bears the threads that would call it."""
    threads = progress == "thread" or (progress == "kernel" and kernels.num_threads() > 1)
    return not threads or ranks.MPI.Query_thread() >= ranks.MPI.THREAD_SERIALIZED


def _safe(ranks, settings, say):
    """With "poll" where MPI does not bear the way of progress that was asked for."""
    if _bears(ranks, settings.progress):
        return settings
    say(f"progress poll instead of {settings.progress}: this MPI must not be called by other threads")
    return settings._replace(progress="poll")


def choose(ranks, settings, weights, say):
    """The Settings for gradients of these weights, measured where they say "auto"; all ranks call this together."""
    auto, settings = settings.auto, _unmeasured(ranks, settings, weights)
    if ranks.size > 1:
        if not ranks.any(ranks.crowded):  # on any machine: all ranks measure, or none
            settings = _measured(ranks, settings, auto, weights, say)
        elif auto - {"reduction"}:
            say(f"more ranks than cores: {', '.join(sorted(auto - {'reduction'}))} not measured; messages move between"
                " layers")
    return _safe(ranks, settings, say)


def _by_nodes(ranks, settings, size, say):
    """The Settings whose sums of so many bytes are faster: as MPI makes them, or within each node first."""
    times = {}
    for name in ("native", "levels"):
        probe = Probe(ranks, settings._replace(reduction=name))
        times[name] = ranks.bcast(probe.seconds(size))
        probe.close()
    chosen = "levels" if times["levels"] < GAIN * times["native"] else "native"
    told = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in times.items())
    say(f"reduction {chosen}: a sum of {in_words(size)} takes, in ms: {told}")
    return settings._replace(reduction=chosen)


def _measured(ranks, settings, auto, weights, say):
    """With the link, and what is "auto", as measured on more ranks than one."""
    largest = weights.nbytes
    if "reduction" in auto and settings.reduction == "native" and _may_share(ranks, settings, weights):
        settings = _by_nodes(ranks, settings, min(largest, SIZES[2]), say)
    probe = Probe(ranks, settings)
    link = ranks.bcast(probe.link(largest))
    settings = settings._replace(link=link, **{name: getattr(link, name) for name in auto - {"progress", "reduction"}})
    say(f"messages take {link} of float32; fused up to {in_words(settings.bucket)}, split from"
        f" {in_words(settings.chunk)}")
    if "progress" in auto:
        sent = typical(largest, link)
        alone, compute, overlaps = probe.overlap(sent, link.chunk)
        chosen = best(overlaps)
        core = max(0.0, overlaps[chosen].post + overlaps[chosen].compute - compute) / sent
        settings = settings._replace(progress=chosen, link=link._replace(core=core))
        times = ", ".join(f"{name} {1e3 * each.total:.0f}" for name, each in overlaps.items())
        say(f"progress {settings.progress}: {1e3 * alone:.0f} ms of communication and {1e3 * compute:.0f} ms of"
            f" computing take together, in ms: {times}")
    probe.close()
    return settings


def resolved(ranks, settings, given, weights, say):
    """The Settings, or those of keyword arguments, measured where they say "auto" for gradients of these weights."""
    if settings and given:
        raise UserError(f"settings and {', '.join(given)} | expected one or the other | try: settings._replace(...)")
    settings = settings or settings_of(AUTO | given)
    compare(ranks, settings._replace(link=None)._asdict(), REMEDY)  # what is measured must be the same on all ranks
    return choose(ranks, settings, weights, say) if settings.auto else _safe(ranks, settings, say)
