"""What this MPI, these nodes and these cores need: measured at start-up, for options that say `auto`."""

import statistics
import time
from typing import NamedTuple

import numpy as np

import kernels
from mpilayer.engine import Engine
from mpilayer.messages import Network
from mpilayer.pending import LANES, Settings
from mpilayer.progress import MOVING, PROGRESS
from mpilayer.reduction import REDUCTIONS, Calls
from mpilayer.wire import WIRES

SIZES = (4 << 10, 64 << 10, 1 << 20, 4 << 20, 16 << 20)  # bytes of float32
ENOUGH = 0.05  # seconds after which no larger message is tried
READINGS = 5
LONGEST = 4096  # rows of the dense layer that computes
GAIN = 0.97  # a way of progress must bring this much to be preferred to a simpler one


def operands(rows=64):
    """Of the computation that messages are hidden behind: a dense layer."""
    return np.zeros((rows, 1024), np.float32), np.zeros((1024, 1024), np.float32)


class Overlap(NamedTuple):
    """Mean seconds over the ranks of a computation with messages in flight: computing, and then waiting."""

    compute: float
    exposed: float

    @property
    def total(self):
        """Both."""
        return self.compute + self.exposed


class Probe:
    """Sums over the ranks of arrays of nothing, as `settings` say."""

    def __init__(self, ranks, settings):
        self.ranks, self.settings, self.calls = ranks, settings, Calls(ranks)
        self.reduction = REDUCTIONS[settings.reduction](self.calls)
        self.wire = WIRES[settings.wire]()

    def _engine(self, size, pieces, lanes):
        """An engine with one slot of `size` bytes of float32 in so many messages."""
        buffer = self.wire.buffer(kernels.empty((size // 4,)))
        buffer[:] = 0
        stages = [self.reduction.stages(part, number % lanes)
                  for number, part in enumerate(np.array_split(buffer, pieces))]
        return Engine([stages], lanes, self.calls.test)

    def _send(self, engine):
        for message in range(engine.ready.size):
            engine.mark(0, message, ready=True)
        engine.advance()

    def _wait(self, engine):
        def arrived():
            engine.advance()
            return engine.quiet

        self.ranks.until(arrived, "the measurement at start-up")

    def seconds(self, size):
        """Median time of a sum of so many bytes of float32, everyone beginning together; of the slowest rank."""
        engine, readings = self._engine(size, 1, 1), []
        for _ in range(READINGS + 1):
            self.ranks.meet()
            start = time.perf_counter()
            self._send(engine)
            self._wait(engine)
            readings.append(time.perf_counter() - start)
        return max(self.ranks.gather(statistics.median(readings[1:])))

    def network(self, largest):
        """The Network, from messages of up to `largest` bytes of float32."""
        times = {}
        for size in sorted({min(size, max(largest, SIZES[0])) for size in SIZES}):
            times[size] = self.seconds(size)
            if times[size] > ENOUGH:
                break
        (small, first), (big, last) = min(times.items()), max(times.items())
        per_byte = max(last - first, 1e-3 * last) / max(big - small, big / 2)
        return Network(max(first - small * per_byte, 0.1 * first), per_byte)

    def close(self):
        """Give back what MPI made for this."""
        self.calls.free()

    def overlap(self, largest, network):
        """(seconds of communication alone, of computing alone, {way of progress: Overlap}) of about as much of both."""
        size = min(largest, max(SIZES[0], int(ENOUGH / network.per_byte)))
        pieces = max(1, min(size // network.chunk, 64))
        engine = self._engine(size, pieces, LANES)
        alone = statistics.median(self._trial(engine, lambda: 0.0).total for _ in range(3))
        x, w = operands()
        once = min(self._compute(x, w, 1, lambda: None) for _ in range(3))
        wanted = self.ranks.world.bcast(alone / once) * len(x)
        calls = -(-wanted // LONGEST)  # as few and long as a net's largest kernels
        x, w = operands(max(1, int(wanted / max(1, calls))))
        calls = max(1, int(calls))
        compute = statistics.median(self._compute(x, w, calls, lambda: None) for _ in range(3))
        found = {name: [] for name in PROGRESS}
        for _ in range(3):
            for name, way in PROGRESS.items():
                engine = self._engine(size, pieces, LANES if name in MOVING else pieces)
                with way(engine) as move:
                    found[name].append(self._trial(engine, lambda: self._compute(x, w, calls, move)))  # noqa: B023
        means = {name: Overlap(*np.mean(self.ranks.gather(tuple(map(statistics.median, zip(*trials, strict=True)))),
                                        axis=0)) for name, trials in found.items()}
        return alone, compute, means

    def _compute(self, x, w, calls, move):
        start = time.perf_counter()
        for _ in range(calls):
            kernels.dense(x, w)
            move()
        return time.perf_counter() - start

    def _trial(self, engine, compute):
        self.ranks.meet()
        start = time.perf_counter()
        self._send(engine)
        compute()
        middle = time.perf_counter()
        self._wait(engine)
        return Overlap(middle - start, time.perf_counter() - middle)


def best(overlaps):
    """The simplest way of progress of which none is clearly faster."""
    chosen, *others = overlaps
    for name in others:
        if overlaps[name].total < GAIN * overlaps[chosen].total:
            chosen = name
    return chosen


def size(count):
    """Bytes in words."""
    if count is None:
        return "any size"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def _given(options):
    """Settings as the options have them, `auto` replaced by what needs no measurement: one message, poll."""
    def unless(value, otherwise):
        return otherwise if value == "auto" else value

    return Settings(progress=unless(options.progress, "poll"), reduction=options.reduction, wire=options.wire,
                    feedback=options.error_feedback, bucket=unless(options.bucket, None),
                    chunk=unless(options.chunk, None))


def _safe(ranks, settings, say):
    """Messages moved by other threads need an MPI that bears it."""
    threads = settings.progress == "thread" or (settings.progress == "kernel" and kernels.num_threads() > 1)
    if threads and ranks.MPI.Query_thread() < ranks.MPI.THREAD_SERIALIZED:
        say(f"progress poll instead of {settings.progress}: this MPI must not be called by other threads")
        return settings._replace(progress="poll")
    return settings


def choose(ranks, options, largest, say):
    """Settings for a gradient of `largest` bytes: as the options say, measured where they say auto."""
    settings = _given(options)
    auto = {name for name in ("progress", "bucket", "chunk") if getattr(options, name) == "auto"}
    if ranks.size == 1:
        return settings
    if ranks.crowded:
        if auto:
            say(f"more ranks than cores: {', '.join(sorted(auto))} not measured; messages move between layers")
        return settings
    probe = Probe(ranks, settings)
    network = ranks.world.bcast(probe.network(largest))
    settings = settings._replace(network=network, **{name: getattr(network, name) for name in auto - {"progress"}})
    say(f"messages take {network} of float32; fused up to {size(settings.bucket)}, split from {size(settings.chunk)}")
    if "progress" in auto:
        alone, compute, overlaps = probe.overlap(largest, network)
        settings = settings._replace(progress=best(overlaps))
        times = ", ".join(f"{name} {1e3 * each.total:.0f}" for name, each in overlaps.items())
        say(f"progress {settings.progress}: {1e3 * alone:.0f} ms of communication and {1e3 * compute:.0f} ms of"
            f" computing take together, in ms: {times}")
    probe.close()
    return _safe(ranks, settings, say)
