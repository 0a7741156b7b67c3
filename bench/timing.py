"""The only timer, and what this core can do at most."""

import itertools
import statistics
import time
from pathlib import Path

import numpy as np
from numba import njit

from kernels import gpu, micro
from kernels.vectors import call

LEAST = 1e-3  # seconds of one reading, far above what the clock and the loop cost
FAIR = 16  # times as many calls as a reading needs, at most, so that each function is called as often
DEPTH, PASSES = 128, 1000  # a panel that L1 holds with room to spare, and how often the peak goes over it


class Wall:
    """The clock of this computer; `least`: seconds that a reading takes."""

    least = LEAST

    def reading(self, function, calls):
        """Seconds that so many calls take."""
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return time.perf_counter() - start


class Events:
    """The GPU's clock: from when its stream comes to the first call until it has done the last."""

    least = 20 * LEAST

    def __init__(self):
        self.cuda = gpu.cupy().cuda
        self.start, self.end = self.cuda.Event(), self.cuda.Event()

    def reading(self, function, calls):
        """Seconds; if this computer is `behind`, launching calls that the GPU is waiting for, its time is in them."""
        self.start.record()
        for _ in range(calls):
            function()
        self.end.record()
        self.behind = self.start.done
        self.end.synchronize()
        return self.cuda.get_elapsed_time(self.start, self.end) / 1e3


class Cold(Events):
    """The same of single calls, each after writing several times what the GPU's cache holds: nothing of its arrays is
    there, and this computer has time to be ahead, so that only the GPU's own work counts.
    """

    least, WRITES = 0.0, (4, 16, 64)  # of 200 MB each on an H100, which takes some 0.3, 1 and 4 ms

    def __init__(self):
        super().__init__()
        cupy = gpu.cupy()
        self.memory = cupy.empty(4 * cupy.cuda.Device().attributes["L2CacheSize"], np.uint8)

    def reading(self, function, calls):
        """Seconds. To launch many kernels takes longer than few writes do: then it is done again, after more."""
        for writes in self.WRITES:
            for _ in range(writes):
                self.memory.fill(0)
            seconds = super().reading(function, calls)
            if not self.behind:
                break
        return seconds


def _calls(function, clock):
    """How many calls make one reading long enough."""
    calls = 1
    while clock.reading(function, calls) < clock.least:
        calls *= 2
    return calls


def alternate(functions, *, rounds, seconds, clock=None):
    """Median seconds of a call of each of {name: function}, in at least that many rounds and seconds, by a clock.

    They run in turn, so that a change of clock rate or a busy neighbour meets all of them alike; and each as many
    times, since the first call finds in no cache what it needs.
    """
    clock = clock or Wall()
    for function in functions.values():
        function()
    needed = {name: _calls(function, clock) for name, function in functions.items()}
    calls = {name: min(max(needed.values()), FAIR * count) for name, count in needed.items()}
    readings = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for done in itertools.count():
        if done >= rounds and time.perf_counter() >= end:
            break
        for name, function in functions.items():
            readings[name].append(clock.reading(function, calls[name]) / calls[name])
    return {name: statistics.median(values) for name, values in readings.items()}


@njit(nogil=True)
def _multiply(tile, a, b, c, same):
    """The largest tile, over and over the same panels."""
    wide = tile.columns
    call(tile.address, (tile.rows, wide, DEPTH, a.ctypes.data, DEPTH * 4, 4, b.ctypes.data, wide * 4, c.ctypes.data,
                        wide * 4, same.size, same.ctypes.data, same.ctypes.data, 0, 0, b.ctypes.data, 0, 0))


def peak(precision="float32"):
    """GFLOP/s of this core's multiply-add units, in float32 or bfloat16: the register tile, fed from L1."""
    tile, each = (micro.pairs_tile(), 2) if precision == "bfloat16" else (micro.tile(), 1)
    tall, wide = tile.rows, tile.columns
    a, b, c = (np.zeros(shape, np.float32) for shape in ((tall, DEPTH), (DEPTH, wide), (tall, wide)))
    same = np.zeros(PASSES, np.intp)
    seconds = alternate({"tile": lambda: _multiply(tile, a, b, c, same)}, rounds=5, seconds=0.3)["tile"]
    return 2 * each * tall * wide * DEPTH * PASSES / seconds / 1e9


def _last_level_cache():
    """Bytes; 64 MiB where the system does not tell."""
    sizes = [file.read_text() for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size.strip().rstrip("K")) << 10 for size in sizes), default=64 << 20)


def copy_bandwidth():
    """GB/s of memory, read and written, by a copy far larger than the caches."""
    source = np.ones(max(256 << 20, 4 * _last_level_cache()) // 8)
    target = np.ones_like(source)
    seconds = alternate({"copy": lambda: np.copyto(target, source)}, rounds=3, seconds=0.3)["copy"]
    return 2 * source.nbytes / seconds / 1e9
