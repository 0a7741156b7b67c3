"""Which code calls MPI while the kernels compute: messages do not advance unless somebody calls it.

Each way is a context in which an engine's messages move, of an engine, the LinkModel, if it is known, and the number of
ranks; it gives what the training loop calls between layers.
"""

import contextlib
import threading

import numpy as np

import kernels
from mpilayer.base import env
from mpilayer.mpi import engine_callers
from mpilayer.mpi.link_model import USUAL, LinkModel

AT_ONCE = 128 << 10  # bytes that the system's buffers take in or give out while nobody looks
LONGEST = 1000  # microseconds
UNKNOWN = LinkModel(0.0, 0.0)

_in_kernels = []  # (engine whose messages kernels move, microseconds between two looks)
_table = None  # which the kernels read, so it must live on


def _nothing():
    """Between layers, nothing."""


def _microseconds(best):
    """Between two looks: as many as were asked for, or what is best, in seconds."""
    asked = env.get("MPILAYER_PROGRESS_US")
    return round(1e6 * best) if asked == "auto" else int(asked)


@contextlib.contextmanager
def none(engine, link=UNKNOWN, ranks=2):
    """Nobody: messages move when they are posted and waited for only."""
    yield _nothing


@contextlib.contextmanager
def poll(engine, link=UNKNOWN, ranks=2):
    """The training loop, between layers."""
    yield engine.advance


@contextlib.contextmanager
def kernel(engine, link=UNKNOWN, ranks=2):
    """The kernels, from inside their loops, and the training loop between them: no thread, no Python."""
    lasting = engine.busy() / engine.arrivals if engine.arrivals else 0.0  # what a message has taken so far
    hooked = engine, _microseconds(link.interval(ranks, lasting))
    _in_kernels.append(hooked)
    _hook_kernels()
    try:
        yield engine.advance
    finally:
        _in_kernels.remove(hooked)
        _hook_kernels()


def _hook_kernels():
    """Let kernels advance the engines of the list."""
    global _table
    kernels.set_progress(0)
    words = [engine.words.ctypes.data for engine, _ in _in_kernels]
    _table = np.array([2 + len(words), engine_callers.advance_one().address, *words], np.int64)
    if words:
        often = min(microseconds for _, microseconds in _in_kernels)
        kernels.set_progress(engine_callers.hook().address, _table.ctypes.data, often)


@contextlib.contextmanager
def thread(engine, link=UNKNOWN, ranks=2):
    """A thread that wakes up now and then; it needs a core now and then, on a slow link less often."""
    engine.stop(False)
    nap = max(_microseconds(USUAL), min(LONGEST, round(1e6 * link.per_byte * AT_ONCE)))
    watcher = threading.Thread(target=engine.watch, args=(nap,), daemon=True)
    watcher.start()
    try:
        yield _nothing
    finally:
        engine.stop()
        watcher.join()


PROGRESS = {"none": none, "poll": poll, "kernel": kernel, "thread": thread}
MOVING = {"kernel", "thread"}  # those that move messages, and start the next, while a kernel runs
