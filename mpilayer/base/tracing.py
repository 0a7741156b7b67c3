"""Where the time goes on each rank: sums by kind, and the events of the last steps for a timeline."""

import collections
import contextlib
import json
import time
from typing import NamedTuple

import numpy as np

from mpilayer.base.files import replacing

KINDS = {
    "compute": "kernels of the net, by layer",
    "exposed": "waiting for a sum, doing nothing else",
    "update": "applying gradients to weights",
    "mpi": "moving messages: MPI's own work on this core",
    "input": "reading the batch",
    "waiting": "for the GPU and for sums, while the GPU computes or not",
}
WAITING = {"exposed", "waiting"}
STEPS_KEPT = 10
MOST_SHOWN = 64  # ranks in a timeline


class Moment(NamedTuple):
    """When something began, and how long this rank had been moving messages by then; in seconds."""

    time: float
    moving: float


def _nothing():
    return 0.0


def _nobody(text):
    """Is told."""


class Trace:
    """`seconds` by kind since the last `restart`; `steps`, the events (kind, name, start, end) of the last steps.

    keep      steps whose events are kept; none with 0, where next_step() need not be called
    `doing` is told, in words, what is computed from now on: for the flight recorder.
    `moving` tells how long this rank has been moving messages: what of that falls into other work is counted as mpi.
    rows      {kind: its row of the timeline}, the others' is `work`      beside   kinds that take no time of the others
    exposed   seconds so far, but for what no schedule can hide
    spent     {"compute" or "exposed": Counter of {event's name: seconds so far}}
    """

    now = staticmethod(time.perf_counter)
    work, rows, kinds, beside = "work", {}, tuple(kind for kind in KINDS if kind != "waiting"), ()

    def __init__(self, keep=STEPS_KEPT):
        self.steps = collections.deque([[] if keep else collections.deque(maxlen=0)], maxlen=max(1, keep))
        self.keep, self.moving, self.exposed, self.announced = keep, _nothing, 0.0, False
        self.spent = {"compute": collections.Counter(), "exposed": collections.Counter()}
        self.inside = 0.0  # seconds of what is being computed in which that was interrupted
        self.doing = _nobody
        self.restart()

    def restart(self):
        """Begin the sums anew."""
        self.seconds = dict.fromkeys(self.kinds, 0.0)

    def settle(self):
        """Wait until everything is counted."""

    def next_step(self):
        """Events from here on belong to the next step; forward() begins one, too, if this was not called before."""
        if self.keep:
            self.steps.append([])
        self.announced = True

    def moment(self):
        """The beginning of something."""
        return Moment(self.now(), self.moving())

    def add(self, kind, name, begin):
        """Something that began at that moment ends now."""
        end = self.moment()
        moving = 0.0 if kind in WAITING else end.moving - begin.moving
        self.seconds["mpi"] += moving
        self.count(self.steps[-1], kind, name, begin.time, end.time, moving)

    def count(self, step, kind, name, start, end, moving=0.0):
        """An event of a step, in which this rank was moving messages for so many seconds."""
        seconds = end - start - moving
        if kind == "exposed":
            self.exposed += seconds
        elif kind == "compute":
            seconds, self.inside = seconds - self.inside, 0.0
        self.seconds[kind] += seconds
        if kind in self.spent:
            self.spent[kind][name] += seconds
        step.append((kind, name, start, end))

    @contextlib.contextmanager
    def interrupted(self, name):
        """The block is waiting in the midst of what a layer computes, and no schedule can hide that."""
        start, before = self.now(), self.exposed
        with self.span("exposed", name):
            yield
        self.inside += self.now() - start
        self.exposed = before

    def request(self, name, step, began, ended):
        """A message was on its way."""
        self.steps[-1].append(("request", f"{name} ({step})", began, ended))

    @contextlib.contextmanager
    def span(self, kind, name):
        """Time the block."""
        begin = self.moment()
        try:
            yield
        finally:
            self.add(kind, name, begin)

    def forward(self, layers):
        """Pass on what a net's forward yields; what it computes after a yield is that layer's."""
        if not self.announced:
            self.next_step()
        self.announced = False
        name, begin = "input", self.moment()
        for layer in layers:
            self.add("compute", f"forward {name}", begin)
            yield layer
            name, begin = layer.name, self.moment()
            self.doing(f"forward {name}")
        self.add("compute", f"forward {name}", begin)

    def backward(self, layers):
        """Pass on what a net's backward yields; what it computes before a yield is that layer's gradient."""
        begin = self.moment()
        self.doing("backward")
        for layer in layers:
            self.add("compute", f"backward {layer.name}", begin)
            yield layer
            begin = self.moment()
            self.doing(f"backward, after {layer.name}")
        self.add("compute", "backward input", begin)

    def period(self):
        """Median seconds from the beginning of a step kept to that of the next; None for fewer than two."""
        self.settle()
        begun = [min(begin for kind, _, begin, _ in step if kind != "request") for step in self.steps if step]
        return float(np.median(np.diff(begun))) if len(begun) > 1 else None

    def durations(self):
        """{event's name: median seconds} of what was computed and updated in the steps kept."""
        self.settle()
        found = collections.defaultdict(list)
        for step in self.steps:
            for kind, name, begin, end in step:
                if kind in ("compute", "update"):
                    found[name].append(end - begin)
        return {name: float(np.median(seconds)) for name, seconds in found.items()}


class Watched:
    """A net whose forward and backward are timed; otherwise the net itself."""

    def __init__(self, net, trace):
        self._net, self._trace = net, trace

    def forward(self, batch):
        """As the net's."""
        return self._trace.forward(self._net.forward(batch))

    def backward(self):
        """As the net's."""
        return self._trace.backward(self._net.backward())

    def __getattr__(self, name):
        return getattr(self._net, name)


def _clock_offset(ranks):
    """Seconds this rank's clock is ahead of rank 0's: none on one machine, else seen when barriers end."""
    if ranks.node.size == ranks.size:
        return 0.0
    differences = []
    for _ in range(9):
        ranks.meet()
        clock = time.perf_counter()
        differences.append(clock - ranks.bcast(clock))
    return float(np.median(differences))


def _chrome(rank, rows, events):
    """Chrome's trace events: a process for each rank, its work on one row or several, each request on one of its own.
    """
    names = [rows[None], *dict.fromkeys(row for kind, row in rows.items() if kind)]
    yield {"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"rank {rank}"}}
    for row, name in enumerate(names):
        yield {"ph": "M", "pid": rank, "tid": row, "name": "thread_name", "args": {"name": name}}
    for number, (kind, name, start, end) in enumerate(events):
        where = {"pid": rank, "tid": names.index(rows.get(kind, rows[None])), "name": name, "cat": kind}
        if kind == "request":
            yield {"ph": "b", "ts": start * 1e6, "id": f"{rank}.{number}", **where}
            yield {"ph": "e", "ts": end * 1e6, "id": f"{rank}.{number}", **where}
        else:
            label = f"exposed: {name}" if kind == "exposed" else name
            yield {"ph": "X", "ts": start * 1e6, "dur": (end - start) * 1e6, **where, "name": label}


def write_timeline(path, ranks, trace):
    """Gather the last steps' events of all ranks, or of MOST_SHOWN of many; rank 0 writes them, for Perfetto or
    chrome://tracing.
    """
    trace.settle()
    offset, shown = _clock_offset(ranks), set(np.linspace(0, ranks.size - 1, MOST_SHOWN).astype(int).tolist())
    mine = [(kind, name, start - offset, end - offset) for step in trace.steps for kind, name, start, end in step]
    everyone = ranks.gather_to_first(mine if ranks.rank in shown else None)
    if ranks.rank == 0:
        found = {rank: events for rank, events in enumerate(everyone) if events is not None}
        zero = min((event[2] for events in found.values() for event in events), default=0.0)
        rows = {None: trace.work, **trace.rows}
        events = [event for rank, events in found.items()
                  for event in _chrome(rank, rows, [(k, n, s - zero, e - zero) for k, n, s, e in events])]
        with replacing(path) as file:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)
