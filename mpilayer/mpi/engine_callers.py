"""Who lets messages move (mpilayer/mpi/engine_loop.py): a thread that watches, one that waits, kernels from inside."""

import functools

from numba import carray, cfunc, types

from kernels import compiled
from kernels.progress import now
from mpilayer.mpi.engine_loop import ARRIVED, ERROR, STARTED, STOP, VOTING, WORK_TO_DO, advance_all
from mpilayer.mpi.intrinsics import ask, await_semaphore, load, sleep, yield_core

jit, _ = compiled.decorators()
LONGEST_REST = 10_000_000  # nanoseconds: who waits looks at other things, too


@jit
def watch(words, microseconds):
    """Advance again and again until told to stop: a thread's work. Where nothing is in flight it sleeps until something
    is posted: waking up now and then costs the thread that computes.
    """
    while not words[STOP]:
        alone = advance_all(words)
        idle = alone and words[STARTED] == words[ARRIVED] and not words[VOTING]
        if not idle or await_semaphore(words.ctypes.data + 8 * WORK_TO_DO):
            sleep(microseconds)


@jit
def rest(words, microseconds, seen):
    """Advance again and again, between with a nap of so many microseconds, until another number of messages than `seen`
    has arrived; no longer than LONGEST_REST. Without a nap others have the core if they want it.
    """
    end = now() + LONGEST_REST
    while load(words.ctypes.data + 8 * ARRIVED) == seen and not words[ERROR] and now() < end:
        if microseconds:
            sleep(microseconds)
        else:
            yield_core()
        advance_all(words)


@functools.cache
def hook():
    """The C function `void advance(int64 *table)` for several engines: [2 + engines, advance one, words of each]."""
    @cfunc(types.void(types.CPointer(types.int64)), cache=True)
    def advance(address):
        table = carray(address, (carray(address, (1,))[0],))
        for number in range(2, table.size):
            ask(table[1], (table[number],))

    return advance


@functools.cache
def advance_one():
    """The C function `void advance(int64 *words)`."""
    @cfunc(types.void(types.CPointer(types.int64)), cache=True)
    def advance(address):
        advance_all(carray(address, (carray(address, (1,))[0],)))

    return advance
