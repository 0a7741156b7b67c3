"""What moves messages: a compiled loop that starts each when its turn comes, tests those in flight, and notes when.

The messages of a step go out in one order, the same on every rank, because collectives must. At most `lanes` are in
flight, since those share the link: only what is not yet started can still be overtaken. The loop needs neither Python
nor its lock, so that a kernel can call it from inside (kernels.set_progress), as can a thread, or the training loop.
"""

import functools
import time
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.progress import now

I32, I64 = ir.IntType(32), ir.IntType(64)
ARGUMENTS = 10  # of the longest MPI call, MPI_Ialltoallv

# words of the state
(LENGTH, LOCK, ERROR, STOP, LANES, MESSAGES, SLOTS, FIRST, STARTED, ARRIVED, BUSY_SINCE, BUSY_NS, INSIDE_NS, TEST, FLAG,
 ORDER, READY, BEGAN, ENDED, LANE, CALLS, STATUS) = range(22)
HEADER = 64  # the MPI status takes the rest
# words of a stage
WORK, WORK_ARGUMENTS, START, REQUEST, START_ARGUMENTS = 0, 1, 6, 7, 8
STAGE, STAGES = START_ARGUMENTS + ARGUMENTS, 2
WAITING, ON_ITS_WAY, THERE = 0, 1, 2  # what READY says of a message: its data are not there, it may go, it has arrived


class Stage(NamedTuple):
    """One MPI request of a message, and what to compute first; addresses of C functions and integers.

    work      (function, up to 5 arguments) or ()      start     (function that starts the request, its arguments)
    request   address of the MPI_Request               keep      what must live as long as this
    """

    start: tuple
    request: int
    work: tuple = ()
    keep: tuple = ()


def _words(count):
    return types.UniTuple(types.intp, count)


@intrinsic
def _ask(typing, function, arguments):
    """The int that the C function at an address returns; every argument fits a 64-bit register."""
    def generate(context, builder, signature, values):
        kind = ir.FunctionType(I32, [I64] * arguments.count)
        result = builder.call(builder.inttoptr(values[0], kind.as_pointer()), cgutils.unpack_tuple(builder, values[1]))
        return builder.sext(result, I64)

    return types.intp(types.intp, _words(arguments.count)), generate


@intrinsic
def _swap(typing, address, value):
    """Store the value, return what was there; atomic."""
    def generate(context, builder, signature, values):
        return builder.atomic_rmw("xchg", builder.inttoptr(values[0], I64.as_pointer()), values[1], "seq_cst")

    return types.intp(types.intp, types.intp), generate


@intrinsic
def _sleep(typing, microseconds):
    def generate(context, builder, signature, values):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, [I32]), "usleep")
        builder.call(function, [builder.trunc(values[0], I32)])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@njit(nogil=True, cache=True)
def _begin(words, lane, place, stage, moment):
    """Start a stage of the message in a lane; False, with the error noted, if MPI refuses."""
    at = words[CALLS] + (place * STAGES + stage) * STAGE
    if words[at + WORK]:
        a = at + WORK_ARGUMENTS
        _ask(words[at + WORK], (words[a], words[a + 1], words[a + 2], words[a + 3], words[a + 4]))
    a = at + START_ARGUMENTS
    words[ERROR] = _ask(words[at + START], (
        words[a], words[a + 1], words[a + 2], words[a + 3], words[a + 4],
        words[a + 5], words[a + 6], words[a + 7], words[a + 8], words[a + 9]))
    lane = words[LANE] + 2 * lane
    words[lane], words[lane + 1] = place + 1, stage
    return words[ERROR] == 0


@njit(nogil=True, cache=True)
def _arrive(words, place, moment):
    words[words[READY] + place], words[words[ENDED] + place] = THERE, moment
    words[ARRIVED] += 1
    if words[ARRIVED] == words[STARTED]:
        words[BUSY_NS] += moment - words[BUSY_SINCE]


@njit(nogil=True, cache=True)
def _test(words, lane):
    """Whether anything changed in a lane: its request completed."""
    at = words[LANE] + 2 * lane
    place, stage = words[at] - 1, words[at + 1]
    if place < 0:
        return False
    record = words[CALLS] + (place * STAGES + stage) * STAGE
    base = words.ctypes.data
    words[ERROR] = _ask(words[TEST], (words[record + REQUEST], base + 8 * FLAG, base + 8 * STATUS))
    if words[ERROR] or not words[FLAG]:
        return False
    if stage + 1 < STAGES and words[record + STAGE + START]:
        return _begin(words, lane, place, stage + 1, now())
    words[at] = 0
    _arrive(words, place, now())
    return True


@njit(nogil=True, cache=True)
def _start_next(words):
    """Whether the message whose turn it is could be started: it is ready and its lane free."""
    number = words[STARTED]
    turn, slot = number % words[MESSAGES], (words[FIRST] + number // words[MESSAGES]) % words[SLOTS]
    lane = turn % words[LANES]
    place = slot * words[MESSAGES] + words[words[ORDER] + turn]
    if words[words[LANE] + 2 * lane] or words[words[READY] + place] != ON_ITS_WAY:
        return False
    moment = now()
    words[words[BEGAN] + place] = moment
    if words[ARRIVED] == number:
        words[BUSY_SINCE] = moment
    words[STARTED] += 1
    return _begin(words, lane, place, 0, moment)


@njit(nogil=True, cache=True)
def _advance(words):
    """Move what can move."""
    if words[ERROR] or _swap(words.ctypes.data + 8 * LOCK, 1):
        return
    begin, more = now(), True
    while more and not words[ERROR]:
        more = False
        for lane in range(words[LANES]):
            more |= _test(words, lane)
        while not words[ERROR] and _start_next(words):
            more = True
    words[INSIDE_NS] += now() - begin
    _swap(words.ctypes.data + 8 * LOCK, 0)


@njit(nogil=True, cache=True)
def _watch(words, microseconds):
    """Advance again and again until told to stop: a thread's work."""
    while not words[STOP]:
        _advance(words)
        _sleep(microseconds)


@functools.cache
def _hook():
    """The C function `void advance(int64 *words)`."""
    @cfunc(types.void(types.CPointer(types.int64)), cache=True)
    def advance(address):
        _advance(carray(address, (carray(address, (1,))[0],)))

    return advance


def warm():
    """Compile the loop, or find it on disk."""
    idle = Engine([[()]], [0], 1, 0)
    idle.advance()
    idle.stop()
    _watch(idle.words, 0)


class Engine:
    """Messages 0 to M-1 of each step, in `slots` sets of buffers that steps use in turn.

    stages   for each slot, for each message, its Stages, at most two       order   the turn of each message
    lanes    how many may be in flight                                      test    address of MPI_Test
    """

    def __init__(self, stages, order, lanes, test):
        slots, messages = len(stages), len(order)
        places = slots * messages
        sizes = {ORDER: messages, READY: places, BEGAN: places, ENDED: places, LANE: 2 * lanes,
                 CALLS: places * STAGES * STAGE}
        ends = np.cumsum([HEADER, *sizes.values()])
        self.words = words = np.zeros(ends[-1], np.int64)
        for word, start in zip(sizes, ends[:-1], strict=True):
            words[word] = start
        words[[LENGTH, LANES, MESSAGES, SLOTS, TEST]] = words.size, lanes, messages, slots, test
        words[words[ORDER]:][:messages] = order
        self.ready, self.began, self.ended = (words[words[part]:][:places].reshape(slots, messages)
                                              for part in (READY, BEGAN, ENDED))
        calls = words[words[CALLS]:].reshape(places, STAGES, STAGE)
        for place, message in enumerate(message for slot in stages for message in slot):
            for stage, call in zip(message, calls[place], strict=False):
                call[WORK:WORK + len(stage.work)] = stage.work
                call[START], call[REQUEST] = stage.start[0], stage.request
                call[START_ARGUMENTS:][:len(stage.start) - 1] = stage.start[1:]
        self.keep = stages
        self.hook = _hook().address

    def advance(self):
        """Move what can move."""
        _advance(self.words)

    def watch(self, microseconds):
        """Advance about so often until `stop`, without Python's lock."""
        self.words[STOP] = 0
        _watch(self.words, microseconds)

    def stop(self):
        """End `watch`."""
        self.words[STOP] = 1

    def first(self, slot):
        """The slot of the first step, before anything is sent."""
        self.words[FIRST] = slot

    def mark(self, slot, message, *, ready):
        """A message's data are being replaced, or are there: it may go when its turn comes."""
        self.ready[slot, message] = ON_ITS_WAY if ready else WAITING

    def arrived(self, slot, message):
        """Whether the message's sum is there."""
        return self.ready[slot, message] == THERE

    @property
    def error(self):
        """MPI's error code, or 0."""
        return int(self.words[ERROR])

    @property
    def quiet(self):
        """Whether all that may go has arrived."""
        return not (self.ready == ON_ITS_WAY).any()

    def times(self, slot, message):
        """Seconds of the monotonic clock at which a message was started and had arrived."""
        return self.began[slot, message] / 1e9, self.ended[slot, message] / 1e9

    def busy(self):
        """Seconds so far in which a message was in flight."""
        words = self.words
        current = time.perf_counter_ns() - words[BUSY_SINCE] if words[STARTED] > words[ARRIVED] else 0
        return (words[BUSY_NS] + current) / 1e9

    def inside(self):
        """Seconds spent in this loop: MPI's own work, and sums."""
        return self.words[INSIDE_NS] / 1e9
