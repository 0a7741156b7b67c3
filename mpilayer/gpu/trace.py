"""Where the time goes on a GPU: marks in its stream, which are looked at when it has come past them."""

import collections
import contextlib
from typing import NamedTuple

from kernels import gpu
from mpilayer.base.tracing import Trace

ON_GPU = {"compute", "exposed", "update"}
NOT_YET = 600  # cudaErrorNotReady


def is_complete(event):
    """Whether the GPU has come past an event. Raises what went wrong there: CuPy's Event.done would be false for ever.
    """
    runtime = gpu.cupy().cuda.runtime
    status = runtime.eventQuery(event.ptr)
    if status not in (0, NOT_YET):
        raise runtime.CUDARuntimeError(status)
    return status == 0


class TimedEvent(NamedTuple):
    """All that the stream does between the mark before and `event` is of that kind, None for nothing in particular."""

    kind: str | None
    name: str
    event: object
    step: list
    hideable: bool = True  # by a schedule


class Copy(NamedTuple):
    """`kind` is out or back, or sum; the others events."""

    kind: str
    name: str
    began: object
    done: object
    step: list


class GpuTrace(Trace):
    """A Trace of a rank that computes on a GPU. Kernels, updates, and waiting for sums are what the GPU does; what this
    core does meanwhile, waiting among it, is beside that.

    What has been marked is counted a step later or so, when the GPU has come there: nobody waits for it.
    """

    work, beside = "this core", ("mpi", "input", "waiting")
    rows = {**dict.fromkeys(("compute", "exposed", "update"), "GPU"), "out": "copies out", "back": "copies back",
            "sum": "NCCL"}
    kinds = *Trace.kinds, "waiting"

    def __init__(self):
        self.cuda = gpu.cupy().cuda
        self.stream, self.events = self.cuda.get_current_stream(), []
        self.marks, self.copies = collections.deque(), collections.deque()
        self.origin = self.last = None
        super().__init__()

    def record(self, stream):
        """An event at the end of what the stream has been told."""
        event = self.events.pop() if self.events else self.cuda.Event()
        event.record(stream)
        return event

    def restart(self):
        """Begin the sums anew, by this computer's clock; waits for the GPU."""
        if self.origin:
            self.settle()
            self.events.extend({self.origin, self.last})
        super().restart()
        self.origin = self.record(self.stream)
        self.origin.synchronize()
        self.zero = self.now()
        self.last, self.reached = self.origin, self.zero

    def next_step(self):
        """Events from here on belong to the next step; what the GPU did since the last one was of no kind."""
        super().next_step()
        self._mark(None, "between steps")
        self.look()

    def add(self, kind, name, begin):
        """Something ends now, on the GPU or here; waiting for a sum does on both."""
        if kind in ON_GPU:
            self._mark(kind, name)
        if kind not in ON_GPU or kind == "exposed":
            super().add("waiting" if kind == "exposed" else kind, name, begin)

    def _mark(self, kind, name, **more):
        self.marks.append(TimedEvent(kind, name, self.record(self.stream), self.steps[-1], **more))

    def waited(self, name):
        """The stream was told to wait for something, just now."""
        self._mark("exposed", f"wait {name}")

    @contextlib.contextmanager
    def interrupted(self, name):
        """As without a GPU; that has nothing to do meanwhile."""
        self._mark("compute", f"until {name}")
        begin = self.moment()
        yield
        super().add("waiting", name, begin)
        self._mark("exposed", name, hideable=False)

    def copied(self, kind, name, began, done):
        """A copy between two events; with `began` None there was none, and the event is given back."""
        self.copies.append(Copy(kind, name, began, done, self.steps[-1]))

    def look(self):
        """Count what the GPU has come past."""
        while self.marks and is_complete(self.marks[0].event):
            self._pass(self.marks.popleft())
        while self.copies and is_complete(self.copies[0].done):
            self._note(self.copies.popleft())

    def settle(self):
        """Wait for the GPU, and count all."""
        for event in [*(mark.event for mark in self.marks), *(copy.done for copy in self.copies)]:
            event.synchronize()
        self.look()

    def _pass(self, mark):
        reached = self.reached + self.cuda.get_elapsed_time(self.last, mark.event) / 1e3
        before = self.exposed
        if mark.kind:
            self.count(mark.step, mark.kind, mark.name, self.reached, reached)
        self.exposed = self.exposed if mark.hideable else before
        self._free(self.last)
        self.last, self.reached = mark.event, reached

    def _note(self, copy):
        if copy.began:
            times = (self.zero + self.cuda.get_elapsed_time(self.origin, event) / 1e3 for event in copy[2:4])
            copy.step.append((copy.kind, copy.name, *times))
            self._free(copy.began)
        self._free(copy.done)

    def _free(self, event):
        if event is not self.origin:
            self.events.append(event)
