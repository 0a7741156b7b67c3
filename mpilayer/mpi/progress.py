"""Who makes messages move while the kernels compute: MPI does nothing unless somebody calls it.

Each is a context in which an engine's messages move; it gives what the training loop calls between layers.
"""

import contextlib
import threading

import kernels
from mpilayer.base import env


def _nothing():
    """Between layers, nothing."""


def _interval():
    """Microseconds between two looks, one at least."""
    return max(1, int(env.get("MPILAYER_PROGRESS_US")))


@contextlib.contextmanager
def none(engine):
    """Nobody: messages move when they are posted and waited for only."""
    yield _nothing


@contextlib.contextmanager
def poll(engine):
    """The training loop, between layers."""
    yield engine.advance


@contextlib.contextmanager
def kernel(engine):
    """The kernels, from inside their loops, and the training loop between them: no thread, no Python."""
    kernels.set_progress(engine.hook, engine.words.ctypes.data, _interval())
    try:
        yield engine.advance
    finally:
        kernels.set_progress(0)


@contextlib.contextmanager
def thread(engine):
    """A thread that wakes up now and then; it needs a core now and then."""
    engine.stop(False)
    watcher = threading.Thread(target=engine.watch, args=(_interval(),), daemon=True)
    watcher.start()
    try:
        yield _nothing
    finally:
        engine.stop()
        watcher.join()


PROGRESS = {"none": none, "poll": poll, "kernel": kernel, "thread": thread}
MOVING = {"kernel", "thread"}  # those that move messages, and start the next, while a kernel runs
