"""The request queue: the sums that are on their way, and when each layer's must have arrived."""

from typing import Any, NamedTuple

import numpy as np


class Pending(NamedTuple):
    """A sum over the ranks, in place, that may not be touched before it has completed."""

    step: int
    name: str
    buffer: np.ndarray
    request: Any
    posted: float


class Queue:
    """Non-blocking sums of gradients, in the order they were posted. Every rank must post in the same order."""

    def __init__(self, ranks, trace, progress):
        self.ranks, self.trace, self.progress = ranks, trace, progress
        self.pending = []

    def post(self, step, layer):
        """Start summing `layer.g` over the ranks. Raises RuntimeError if that memory is still in flight."""
        if any(np.may_share_memory(p.buffer, layer.g) for p in self.pending):
            raise RuntimeError(f"step {step} | {layer.name} | posted while another sum in that memory is in"
                               " flight | expected it to be settled first: a delay of k needs k + 1 gradient buffers")
        with self.trace.span("mpi", f"post {layer.name}"):
            request = self.ranks.world.Iallreduce(self.ranks.MPI.IN_PLACE, layer.g)
        self.pending.append(Pending(step, layer.name, layer.g, request, self.trace.now()))
        self.progress(self)

    def test(self):
        """Let MPI move what is in flight, and note what has arrived."""
        moving = [p for p in self.pending if p.request]
        if moving:
            with self.trace.span("mpi", "test"):
                for i in self.ranks.MPI.Request.Testsome([p.request for p in moving]) or ():
                    self._arrived(moving[i])

    def settle(self, layer, up_to):
        """Yield (step, sum) of this layer for every step not after `up_to`, oldest first, waiting as need be."""
        self.progress(self)
        for p in [p for p in self.pending if p.name == layer.name and p.step <= up_to]:
            if p.request:
                with self.trace.span("exposed", f"wait {p.name}"):
                    self.ranks.wait(p.request, p.name)
                self._arrived(p)
            self.pending.remove(p)
            yield p.step, p.buffer

    def _arrived(self, p):
        self.trace.request(p.name, p.step, p.posted)
