"""Streams and events: work waits in its stream's queue until something forces it to run, or runs at once."""

import collections
import itertools
import threading
import time
import weakref

from cupy import emulator
from cupy.emulator.memory import FREED

LOCK = threading.RLock()  # the device does one thing at a time
NOT_READY, LAUNCH_FAILURE = 600, 719
PATIENCE = 3  # so many times work that could be done is said not to be
HANDLES = itertools.count(0x10000, 16)
EVENTS, STREAMS = weakref.WeakValueDictionary(), weakref.WeakValueDictionary()
BUSY = set()  # queues with work in them outlive their stream


class Queue:
    """What has been given to a stream, first come first served."""

    def __init__(self, legacy):
        self.work = collections.deque()
        self.given = self.done = self.asked = 0
        self.legacy = legacy  # whether it and the null stream wait for each other
        self.captured = None  # work that becomes a graph instead, while it is captured

    def put(self, work):
        """Work to do after all that is here."""
        if self.captured is not None:
            self.captured.append(work)
            return self.given
        with LOCK:
            reuse_freed()
            for other in self._before():
                self._append(lambda other=other, until=other.given: other.run(until))
            self._append(work)
            if emulator.current.streams == "eager":
                self.run(self.given)
        return self.given

    def _append(self, work):
        self.work.append(work)
        self.given += 1
        self.asked = 0
        BUSY.add(self)

    def _before(self):
        """Queues whose work must come before what is put here now: the null stream's rule."""
        if self is NULL_QUEUE:
            return [queue for queue in BUSY if queue.legacy and queue is not self]
        return [NULL_QUEUE] if self.legacy and NULL_QUEUE.work else []

    def run(self, until=None):
        """Do the work up to that piece, or all."""
        if self.captured is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing")
        with LOCK:
            reuse_freed()
            until = self.given if until is None else until
            while self.done < until:
                work = self.work.popleft()
                self.done += 1
                if not self.work:
                    BUSY.discard(self)
                work()

    def ask(self, until):
        """Whether it is done up to there; who asks often enough gets it done."""
        if self.done < until and LOCK.acquire(blocking=False):
            try:
                self.asked += 1
                if self.asked > PATIENCE:
                    self.run(until)
            finally:
                LOCK.release()
        return self.done >= until


NULL_QUEUE = Queue(True)


def reuse_freed():
    """Let the streams that freed memory was allocated for use it for something else, after what they have to do."""
    while FREED:
        memory = FREED.popleft()
        if memory.queue is not None and BUSY:
            memory.queue._append(memory.poison)


def run_all():
    """Do all work of all streams."""
    with LOCK:
        while BUSY:
            next(iter(BUSY)).run()


class Event:
    """A mark in a stream."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.timed = not disable_timing
        self.ptr = next(HANDLES)
        self.mark = None
        EVENTS[self.ptr] = self

    def record(self, stream=None):
        """Stand behind all work that the stream has now."""
        queue = (current_stream() if stream is None else stream).queue
        mark = Mark(queue)
        mark.position = queue.put(mark.reach)
        self.mark = mark

    def status(self):
        """0 if all work before it is done, else what the runtime says: that it is not, or that it went wrong."""
        if self.mark is None:
            return 0
        try:
            if not self.mark.wrong:
                return 0 if self.mark.queue.ask(self.mark.position) else NOT_READY
        except RuntimeError:
            self.mark.wrong = True
        return LAUNCH_FAILURE

    @property
    def done(self):
        """Whether all work before it is done; nothing tells whether it went wrong."""
        return self.status() == 0

    def synchronize(self):
        """Wait for the work before it."""
        if self.mark is not None:
            self.mark.queue.run(self.mark.position)


class Mark:
    """Where an event was last recorded, and when that was reached."""

    def __init__(self, queue):
        self.queue, self.position, self.time, self.wrong = queue, queue.given, None, False

    def reach(self):
        """What a stream does that comes here."""
        self.time = time.perf_counter()


def get_elapsed_time(start_event, end_event):
    """Milliseconds between two events that have been reached."""
    from cupy.cuda.runtime import CUDARuntimeError
    for event in (start_event, end_event):
        if not event.timed or event.mark is None:
            raise CUDARuntimeError(400)
        if event.mark.time is None:
            raise CUDARuntimeError(600)
    return (end_event.mark.time - start_event.mark.time) * 1e3


class Graph:
    """Work that was captured, to be given to a stream as often as one likes."""

    def __init__(self, work):
        self._work = work

    def launch(self, stream=None):
        """Give all of it to a stream, in the order in which it was captured."""
        for work in self._work:
            put(work, stream)


class Stream:
    """A queue of work for the device."""

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.queue = NULL_QUEUE if null else Queue(not non_blocking)
        self.ptr = 0 if null else next(HANDLES)
        self.is_non_blocking, self.priority = non_blocking, priority or 0
        self.device_id = -1 if null else 0
        self._before = []
        STREAMS[self.ptr] = self

    def __eq__(self, other):
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self):
        return hash(self.ptr)

    def __repr__(self):
        return f"<Stream {self.ptr} (device {self.device_id})>"

    def __enter__(self):
        self._before.append(current_stream())
        LOCAL.stream = self
        return self

    def __exit__(self, *_):
        LOCAL.stream = self._before.pop()

    def use(self):
        """Make it this thread's stream."""
        LOCAL.stream = self
        return self

    @property
    def done(self):
        """Whether all its work is done."""
        return self.queue.ask(self.queue.given)

    def synchronize(self):
        """Wait for all its work."""
        if self is Stream.null:
            for queue in [queue for queue in BUSY if queue.legacy]:
                queue.run()
        self.queue.run()

    def record(self, event=None):
        """Record an event here, a new one if none is given."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event):
        """Do what comes from now on after what the event has marked until now."""
        mark = event.mark
        if mark is not None:
            self.queue.put(lambda: mark.queue.run(mark.position))

    def begin_capture(self, mode=None):
        """From here on nothing is done that is given to this stream."""
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        self.queue.captured = []

    def end_capture(self):
        """What was given to it since, as a Graph."""
        work, self.queue.captured = self.queue.captured, None
        return Graph(work)

    def is_capturing(self):
        """Whether it is between the two."""
        return self.queue.captured is not None

    def launch_host_func(self, callback, arg):
        """Call a function on the host when all work before is done."""
        self.queue.put(lambda: callback(arg))

    def add_callback(self, callback, arg):
        """Call a function with this stream, a status and an argument when all work before is done."""
        self.queue.put(lambda: callback(self, 0, arg))


Stream.null = Stream(null=True)
Stream.ptds = Stream.null
LOCAL = threading.local()


def current_stream():
    """The stream that this thread gives its work to."""
    return getattr(LOCAL, "stream", Stream.null)


def put(work, stream=None):
    """Give work to a stream, without one to this thread's."""
    return (current_stream() if stream is None else stream).queue.put(work)
