"""Where the time goes on each rank: sums by kind, and the events of the last steps for a timeline."""

import collections
import contextlib
import json
import time

import numpy as np

from mpilayer.files import replacing

KINDS = {
    "compute": "kernels of the net, by layer",
    "exposed": "waiting for a sum, doing nothing else",
    "update": "applying gradients to weights",
    "mpi": "inside calls that start or test requests",
    "input": "reading the batch",
}
STEPS_KEPT = 10


class Trace:
    """`seconds` by kind since the last `restart`; `steps`, the events (kind, name, start, end) of the last steps."""

    now = staticmethod(time.perf_counter)

    def __init__(self):
        self.steps = collections.deque([[]], maxlen=STEPS_KEPT)
        self.restart()

    def restart(self):
        """Begin the sums anew."""
        self.seconds = dict.fromkeys(KINDS, 0.0)

    def next_step(self):
        """Events from here on belong to the next step."""
        self.steps.append([])

    def add(self, kind, name, start):
        """Something that began at `start` ends now."""
        end = self.now()
        self.seconds[kind] += end - start
        self.steps[-1].append((kind, name, start, end))

    def request(self, name, step, posted):
        """A request is seen to have completed."""
        self.steps[-1].append(("request", f"{name} ({step})", posted, self.now()))

    @contextlib.contextmanager
    def span(self, kind, name):
        """Time the block."""
        start = self.now()
        try:
            yield
        finally:
            self.add(kind, name, start)

    def forward(self, layers):
        """Pass on what a net's forward yields; what it computes after a yield is that layer's."""
        name, start = "input", self.now()
        for layer in layers:
            self.add("compute", f"forward {name}", start)
            yield layer
            name, start = layer.name, self.now()
        self.add("compute", f"forward {name}", start)

    def backward(self, layers):
        """Pass on what a net's backward yields; what it computes before a yield is that layer's gradient."""
        start = self.now()
        for layer in layers:
            self.add("compute", f"backward {layer.name}", start)
            yield layer
            start = self.now()
        self.add("compute", "backward input", start)


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
        clocks = ranks.world.allgather(time.perf_counter())
        differences.append(clocks[ranks.rank] - clocks[0])
    return float(np.median(differences))


def _chrome(rank, events):
    """Chrome's trace events: a process for each rank, its work on one row, each request on a row of its own."""
    yield {"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"rank {rank}"}}
    yield {"ph": "M", "pid": rank, "tid": 0, "name": "thread_name", "args": {"name": "work"}}
    for number, (kind, name, start, end) in enumerate(events):
        where = {"pid": rank, "tid": 0, "name": name, "cat": kind}
        if kind == "request":
            yield {"ph": "b", "ts": start * 1e6, "id": f"{rank}.{number}", **where}
            yield {"ph": "e", "ts": end * 1e6, "id": f"{rank}.{number}", **where}
        else:
            label = f"exposed: {name}" if kind == "exposed" else name
            yield {"ph": "X", "ts": start * 1e6, "dur": (end - start) * 1e6, **where, "name": label}


def write_timeline(path, ranks, trace):
    """Gather the last steps' events of all ranks; rank 0 writes them, for Perfetto or chrome://tracing."""
    offset = _clock_offset(ranks)
    mine = [(kind, name, start - offset, end - offset) for step in trace.steps for kind, name, start, end in step]
    everyone = ranks.gather(mine)
    if ranks.rank == 0:
        zero = min((event[2] for events in everyone for event in events), default=0.0)
        shifted = [[(k, n, s - zero, e - zero) for k, n, s, e in events] for events in everyone]
        events = [event for rank, events in enumerate(shifted) for event in _chrome(rank, events)]
        with replacing(path) as file:
            json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)
