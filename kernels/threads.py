"""Threads of a kernel: as many as KERNELS_NUM_THREADS says, or one. Kernels release the GIL, so Python's do."""

import contextlib
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from kernels import env

_threads = None  # not known yet: KERNELS_NUM_THREADS is read when it is first asked for


@functools.cache
def _helpers(count, cores):
    """So many threads, bound to all cores but the first if there are any."""
    free = iter(cores[1:])

    def settle():
        if cores:
            os.sched_setaffinity(threading.get_native_id(), {next(free)})

    return ThreadPoolExecutor(count, "kernels", settle)


@contextlib.contextmanager
def _settled(count):
    """A core for each of so many threads, this one on the first, if the process has just as many; else no cores.

    Systems may leave two busy threads on one core for seconds.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else ()
    if len(allowed) != count:
        yield ()
        return
    cores = tuple(sorted(allowed))
    os.sched_setaffinity(0, cores[:1])
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, allowed)


def set_num_threads(count):
    """Run kernels on `count` threads from now on. Raises ValueError unless it is a positive int."""
    global _threads
    if not (isinstance(count, int) and count >= 1):
        raise ValueError(f"set_num_threads: the number of threads must be a positive int, got {count!r}")
    _threads = count


def num_threads():
    """How many threads kernels run on. Raises ValueError if KERNELS_NUM_THREADS is no positive number."""
    if _threads is None:
        set_num_threads(int(env.get("KERNELS_NUM_THREADS")))
    return _threads


def parallel_for(count, work):
    """Call work(begin, end) on parts of range(count), one for each thread, this one among them; return when all have.

    What is computed must not depend on where range(count) is cut. Raises what `work` raises.
    """
    threads = num_threads()
    parts = min(threads, count)
    if parts == 1:
        work(0, count)
        return
    cuts = [count * part // parts for part in range(parts + 1)]
    with _settled(threads) as cores:
        pool = _helpers(threads - 1, cores)
        others = [pool.submit(work, *cut) for cut in zip(cuts[1:-1], cuts[2:], strict=True)]
        try:
            work(0, cuts[1])
        finally:
            for other in others:
                other.result()
