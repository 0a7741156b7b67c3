"""Threads of a kernel: as many as KERNELS_NUM_THREADS says, or one. Kernels release the GIL, so Python's do."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor

_threads = 1


@functools.cache
def _helpers(count):
    return ThreadPoolExecutor(count, "kernels")


def set_num_threads(count):
    """Run kernels on `count` threads from now on. Raises ValueError unless it is a positive int."""
    global _threads
    if not (isinstance(count, int) and count >= 1):
        raise ValueError(f"set_num_threads: the number of threads must be a positive int, got {count!r}")
    _threads = count


def num_threads():
    """How many threads kernels run on."""
    return _threads


def share(count, work):
    """Call work(begin, end) on parts of range(count), one for each thread, this one among them; return when all have.

    What is computed must not depend on where the cuts are.
    """
    parts = min(_threads, count)
    if parts == 1:
        return work(0, count)
    cuts = [count * part // parts for part in range(parts + 1)]
    others = [_helpers(parts - 1).submit(work, *cut) for cut in zip(cuts[1:-1], cuts[2:], strict=True)]
    try:
        work(0, cuts[1])
    finally:
        for other in others:
            other.result()


def _from_environment():
    text = os.environ.get("KERNELS_NUM_THREADS") or "1"
    if not (text.isdecimal() and int(text) >= 1):
        raise ValueError(f"KERNELS_NUM_THREADS={text}: expected a positive whole number")
    set_num_threads(int(text))


_from_environment()
