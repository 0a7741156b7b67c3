"""Messages of a training step and the loop that moves them (mpilayer/mpi/engine_loop.py), as Python sees them."""

import contextlib
import ctypes
import time
from typing import NamedTuple

import numpy as np

import kernels
from mpilayer.mpi import engine_callers as callers
from mpilayer.mpi import engine_loop as loop
from mpilayer.mpi import flight_recorder as flight

_lock = np.zeros(1, np.int64)  # of all engines of this process: MPI allows calls by one thread at a time


class Operation(NamedTuple):
    """One MPI request of a message, and what to compute first; addresses of C functions and integers.

    start     (function that starts the request, its arguments)
    request   address of the MPI_Request, or of what `test` takes for one
    work      (function, up to 6 arguments) or ()
    keep      what must live as long as this
    test      a function with MPI_Test's arguments, in its place; 0: MPI_Test
    """

    start: tuple
    request: int
    work: tuple = ()
    keep: tuple = ()
    test: int = 0


def warm():
    """Compile the loop, or find it on disk."""
    idle = Engine([[()]], 1, 0)
    idle.advance()
    idle.stop()
    callers.hook()
    kernels.set_progress(0)
    callers.watch(idle.words, 0)
    callers.rest(idle.words, 0, -1)
    loop.post(idle.words, 0)
    loop.release(idle.words)  # first, for what cannot be released must not be held
    with idle.held():
        pass


class Engine:
    """Messages 0 to M-1 of each step, in `slots` sets of buffers that steps use in turn.

    operations   for each slot, for each message, its Operations, at most two
    lanes        how many messages may be in flight; that of message m of slot s is (s M + m) mod that
    test         address of MPI_Test
    due          for each message, when it is needed
    vote         with `due`: of an int64 array of one number, the Operation that replaces it by the least of all
    follow       for each message, the number of the one that is ready when it has arrived, or -1
    labels       for each message, (name, bytes) for the recorder
    recorder     FlightRecorder, which notes what happens to the messages; None: nobody reads it
    """

    def __init__(self, operations, lanes, test, due=None, vote=None, follow=None, labels=(), recorder=None):
        slots, messages = len(operations), len(operations[0])
        places = slots * messages
        sizes = {loop.DUE: messages, loop.FOLLOW: messages, loop.READY: places, loop.BEGAN: places, loop.ENDED: places,
                 loop.RECORD: places, loop.STEPS: slots, loop.LABEL: messages * loop.LABEL_WORDS, loop.LANE: 2 * lanes,
                 loop.CALLS: places * loop.MOST_OPERATIONS * loop.OPERATION_WORDS, None: loop.OPERATION_WORDS}
        ends = np.cumsum([loop.HEADER, *sizes.values()])
        self.words = words = np.zeros(ends[-1], np.int64)
        for word, start in zip(sizes, ends[:-1], strict=True):
            if word:
                words[word] = start
        for word, value in {loop.LENGTH: words.size, loop.LANES: lanes, loop.MESSAGES: messages, loop.SLOTS: slots,
                            loop.NEXT: -1, loop.LOCK: _lock.ctypes.data}.items():
            words[word] = value
        self.word = memoryview(words)  # one read of it takes a quarter of the time of one of an array
        self._test = test
        self.ready, self.began, self.ended = (words[words[part]:][:places].reshape(slots, messages)
                                              for part in (loop.READY, loop.BEGAN, loop.ENDED))
        self.steps = words[words[loop.STEPS]:][:slots]
        words[words[loop.FOLLOW]:][:messages] = -1 if follow is None else follow
        block = np.zeros(flight.BLOCK, np.int64) if recorder is None else recorder.block
        words[loop.RECORDER] = block.ctypes.data
        if recorder:
            recorder.engines += 1
            words[loop.NUMBER] = recorder.engines
        for number, (name, size) in enumerate(labels):
            label = words[words[loop.LABEL] + number * loop.LABEL_WORDS:][:loop.LABEL_WORDS]
            label[0], label[1:] = size, np.frombuffer(flight.encoded(name, flight.NAME_WORDS), np.int64)
        for place, message in enumerate(message for slot in operations for message in slot):
            for number, operation in enumerate(message):
                at = words[loop.CALLS] + (place * loop.MOST_OPERATIONS + number) * loop.OPERATION_WORDS
                self._record(at, operation)
        self.keep = [operations, block]
        ctypes.CDLL(None).sem_init(ctypes.c_void_p(words[loop.WORK_TO_DO:].ctypes.data), 0, 0)
        if due is not None:
            self._by_need(due, vote(words[loop.VOTE:loop.VOTE + 1]), ends[-1] - loop.OPERATION_WORDS)

    def _record(self, at, operation):
        self.words[at:][:len(operation.work)] = operation.work
        self.words[at + loop.START], self.words[at + loop.REQUEST] = operation.start[0], operation.request
        self.words[at + loop.TESTER] = operation.test or self._test
        self.words[at + loop.START_ARGUMENTS:][:len(operation.start) - 1] = operation.start[1:]

    def _by_need(self, due, vote, at):
        self.keep.append(vote)
        self._record(at, vote)
        self.words[loop.BY_NEED] = at
        self.words[self.words[loop.DUE]:][:len(due)] = due

    def advance(self):
        """Move what can move."""
        loop.advance_all(self.words)

    def rest(self, microseconds, seen):
        """Move what can move, with naps between, until another number of messages than `seen` has arrived; for some
        milliseconds at most.
        """
        callers.rest(self.words, microseconds, seen)

    @contextlib.contextmanager
    def held(self):
        """A block in which nobody moves messages: MPI allows calls by one thread at a time."""
        loop.hold(self.words)
        try:
            yield
        finally:
            loop.release(self.words)

    def watch(self, microseconds):
        """Advance about so often until `stop`, without Python's lock."""
        callers.watch(self.words, microseconds)

    def stop(self, stopped=True):
        """End `watch`, or let it begin again."""
        self.words[loop.STOP] = stopped
        loop.wake(self.words)

    def uses(self, slot, step):
        """A training step uses that slot."""
        self.steps[slot] = step
        if self.words[loop.POSTED] == 0:  # of the first step, nothing has been sent
            self.words[loop.FIRST] = slot

    def mark(self, slot, message, *, ready):
        """A message's data are being replaced, or are there: it may go in its turn. Each once a step, by number."""
        if ready:
            loop.post(self.words, slot * self.ready.shape[1] + message)
        else:
            self.ready[slot, message] = loop.WAITING

    def restore(self, slot):
        """What a slot's messages carry is there, though they were sent by another engine."""
        self.ready[slot] = loop.THERE

    def arrived(self, slot, message):
        """Whether the message's sum is there."""
        return self.ready[slot, message] == loop.THERE

    @property
    def error(self):
        """MPI's error code, or 0."""
        return self.word[loop.ERROR]

    @property
    def arrivals(self):
        """How many messages have arrived so far."""
        return self.word[loop.ARRIVED]

    @property
    def quiet(self):
        """Whether all that was marked ready has arrived."""
        arrived = self.word[loop.ARRIVED]  # read first: another thread raises it last
        return arrived == self.word[loop.POSTED] + self.word[loop.FOLLOWED]

    def times(self, slot, message):
        """Seconds of the monotonic clock at which a message was started and had arrived."""
        return self.began.item(slot, message) / 1e9, self.ended.item(slot, message) / 1e9

    def busy(self):
        """Seconds so far in which a message was in flight."""
        words = self.word
        current = time.perf_counter_ns() - words[loop.BUSY_SINCE] if words[loop.STARTED] > words[loop.ARRIVED] else 0
        return (words[loop.BUSY_NS] + current) / 1e9

    @property
    def looks(self):
        """How often somebody has looked while a message was in flight."""
        return self.word[loop.LOOKS]

    def inside(self):
        """Seconds spent in this loop: MPI's own work, and sums."""
        return self.word[loop.INSIDE_NS] / 1e9
