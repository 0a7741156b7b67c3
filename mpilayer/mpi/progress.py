"""Which code calls MPI while the kernels compute: messages do not advance unless somebody calls it.

Each way is a context in which an engine's messages move, of an engine and the seconds that a byte takes, if that is
known; it gives what the training loop calls between layers.
"""

import contextlib
import threading

import numpy as np

import kernels
from mpilayer.base import env
from mpilayer.mpi import engine_callers

AT_ONCE = 128 << 10  # bytes that the system's buffers take in or give out while nobody looks
LONGEST = 1000  # microseconds

_in_kernels = []  # the engines whose messages kernels move
_table = None  # which the kernels read, so it must live on


def _nothing():
    """Between layers, nothing."""


def _interval():
    """Microseconds between two looks."""
    return int(env.get("MPILAYER_PROGRESS_US"))


@contextlib.contextmanager
def none(engine, per_byte=0.0):
    """Nobody: messages move when they are posted and waited for only."""
    yield _nothing


@contextlib.contextmanager
def poll(engine, per_byte=0.0):
    """The training loop, between layers."""
    yield engine.advance


@contextlib.contextmanager
def kernel(engine, per_byte=0.0):
    """The kernels, from inside their loops, and the training loop between them: no thread, no Python."""
    _in_kernels.append(engine)
    _hook_kernels()
    try:
        yield engine.advance
    finally:
        _in_kernels.remove(engine)
        _hook_kernels()


def _hook_kernels():
    """Let kernels advance the engines of the list."""
    global _table
    kernels.set_progress(0)
    words = [engine.words.ctypes.data for engine in _in_kernels]
    _table = np.array([2 + len(words), engine_callers.advance_one().address, *words], np.int64)
    if words:
        kernels.set_progress(engine_callers.hook().address, _table.ctypes.data, _interval())


@contextlib.contextmanager
def thread(engine, per_byte=0.0):
    """A thread that wakes up now and then; it needs a core now and then, on a slow link less often."""
    engine.stop(False)
    nap = max(_interval(), min(LONGEST, round(1e6 * per_byte * AT_ONCE)))
    watcher = threading.Thread(target=engine.watch, args=(nap,), daemon=True)
    watcher.start()
    try:
        yield _nothing
    finally:
        engine.stop()
        watcher.join()


PROGRESS = {"none": none, "poll": poll, "kernel": kernel, "thread": thread}
MOVING = {"kernel", "thread"}  # those that move messages, and start the next, while a kernel runs
