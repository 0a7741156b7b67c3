"""The request queue: the sums that are on their way, and when each layer's must have arrived."""

import contextlib
import math
from collections import deque
from typing import NamedTuple

import numpy as np

import kernels
from mpilayer.engine import Engine
from mpilayer.errors import UserError
from mpilayer.messages import Network, cut, due
from mpilayer.progress import MOVING, PROGRESS
from mpilayer.reduction import REDUCTIONS, Calls
from mpilayer.wire import WIRES

LANES = 2  # enough to hide the latency of one behind the other
MOST_LANES = 16  # where nothing starts the next message while a kernel runs
INT_BYTES = 4 * (2**31 - 1)


class Settings(NamedTuple):
    """How gradients travel. `bucket`, `chunk` in bytes of float32, None for no limit; `lanes`: messages in flight."""

    network: Network = Network(0.0, 0.0)
    progress: str = "poll"
    reduction: str = "native"
    wire: str = "float32"
    feedback: bool = False
    bucket: int | None = 0
    chunk: int | None = None
    lanes: int = LANES


def _place(net, layer):
    """Where a layer's gradient begins and ends in the net's."""
    begin = (layer.g.ctypes.data - net.whole.g.ctypes.data) // 4
    return begin, begin + layer.g.size


class Slot:
    """A gradient buffer of the net, what travels for it, and how many layers each message still lacks."""

    def __init__(self, gradients, wire, messages):
        self.gradients, self.wire = gradients, wire
        self.lacking = [len(message.layers) for message in messages]


class Queue:
    """Non-blocking sums of gradients over the ranks. Every rank opens and posts alike."""

    def __init__(self, ranks, trace, settings, say=lambda text: None):
        self.ranks, self.trace, self.settings, self.say = ranks, trace, settings, say
        self.exposed = 0.0  # seconds of waiting so far
        self.norms = {}  # of the gradients of the last steps, as far as somebody asked
        self.calls = Calls(ranks)
        self.reduction = REDUCTIONS[settings.reduction](self.calls)
        self.wire = WIRES[settings.wire](settings.feedback)
        self.engine, self._context = None, contextlib.ExitStack()

    def open(self, net, slots, bucket=..., chunk=..., by_need=False):
        """Prepare to sum the net's gradients of `slots` steps at a time; what was open before must have arrived.

        `bucket` and `chunk` take the place of the settings'. Messages go out in the order of memory and backward, or
        `by_need`: what forward reads first goes first.
        """
        self.close()
        bucket, chunk = (default if value is ... else value for value, default in
                         ((bucket, self.settings.bucket), (chunk, self.settings.chunk)))
        self.messages = self.cut(net, bucket, chunk)
        self.places = {layer.name: _place(net, layer) for layer in net.layers}
        self.parts = {name: [number for number, m in enumerate(self.messages) if name in m.layers]
                      for name in self.places}
        self.slots = [self._slot(net, number) for number in range(slots)]
        self.posted = {name: deque() for name in self.places}
        self.engine, self.first = self._engine(due(self.messages, net.layers) if by_need else None), None
        if self.settings.progress != "thread":  # else it is not this thread's time
            self.trace.moving = self.engine.inside
        self.resume()

    def cut(self, net, bucket, chunk):
        """The messages of a net's gradient."""
        layers = sorted(((layer.name, *_place(net, layer)) for layer in net.layers), key=lambda layer: layer[1])
        if not self.calls.persistent:  # MPI 3 counts elements with an int
            chunk = min(chunk or INT_BYTES, INT_BYTES)
        return cut(layers, bucket, chunk)

    def _engine(self, due):
        """With the messages of all slots."""
        lanes = self.settings.lanes if self.settings.progress in MOVING else MOST_LANES
        stages = [[self.reduction.stages(slot.wire[m.begin:m.end], number % lanes)
                   for number, m in enumerate(self.messages)] for slot in self.slots]
        return Engine(stages, lanes, self.calls.test, due, self.calls.vote)

    def _slot(self, net, number):
        net.write_gradients_to(number)
        return Slot(net.whole.g, self.wire.buffer(net.whole.g), self.messages)

    def resume(self):
        """Messages move from here on."""
        self.move = self._context.enter_context(PROGRESS[self.settings.progress](self.engine))

    def pause(self):
        """Nothing moves from here on. Raises RuntimeError if sums are in flight."""
        if self.engine and not (self.engine.quiet or self.engine.error):
            raise RuntimeError("the request queue was stopped with sums in flight | expected a drain before")
        self._context.close()

    def close(self):
        """Give back what MPI made for this. Raises RuntimeError if sums are in flight."""
        self.pause()
        self.calls.free()

    def post(self, step, layer):
        """Start summing `layer.g` over the ranks, when its turn comes. Raises RuntimeError for memory in flight."""
        if self.first is None:
            self.first = step
            self.engine.first(step % len(self.slots))
        posted, slot = self.posted[layer.name], self.slots[step % len(self.slots)]
        if posted and posted[0] + len(self.slots) <= step or not np.may_share_memory(layer.g, slot.gradients):
            raise RuntimeError(f"step {step} | {layer.name} | posted while another sum in that memory is in"
                               " flight | expected it to be settled first: a delay of k needs k + 1 gradient buffers")
        posted.append(step)
        begin, end = self.places[layer.name]
        self.wire.encode(layer.g, slot.wire[begin:end], layer.name)
        ready = [self._ready(step, number) for number in self.parts[layer.name]]
        if any(ready):
            self._advance()
        else:
            self.test()

    def _ready(self, step, number):
        """Whether this was the last layer that a message lacked; then it may go."""
        slot = self.slots[step % len(self.slots)]
        slot.lacking[number] -= 1
        ready = slot.lacking[number] == 0
        self.engine.mark(step % len(self.slots), number, ready=ready)
        if ready:
            slot.lacking[number] = len(self.messages[number].layers)
        return ready

    def test(self):
        """Let messages move, if the way of progress is one that does so between layers."""
        if not self.engine.quiet:
            with self.trace.span("mpi", "move"):
                self.move()

    def _advance(self):
        """Start what may be started."""
        with self.trace.span("mpi", "post"):
            self.engine.advance()
            self._check()

    def _check(self):
        if self.engine.error:
            raise UserError(f"MPI failed while summing gradients: {self.calls.MPI.Get_error_string(self.engine.error)}"
                            " | try: python -m mpilayer.info, another --reduction or --progress")

    def has_arrived(self, name, step):
        """Whether the sum of a layer's gradients of a step is there."""
        slot = step % len(self.slots)
        return all(self.engine.arrived(slot, number) for number in self.parts[name])

    def settle(self, layer, up_to):
        """Yield (step, sum) of this layer for every step not after `up_to`, oldest first, waiting as need be."""
        posted = self.posted[layer.name]
        while posted and posted[0] <= up_to:
            step = posted[0]
            gradient = self._arrived(layer.name, step)
            self._note(layer, step)
            posted.popleft()
            yield step, gradient
        self.test()

    def total(self, values):
        """Sum of a float64 array over the ranks, on every rank, while sums may be in flight."""
        with self.engine.held():
            return self.ranks.total(values)

    def norm(self, step):
        """Norm of the sum of all gradients of a step; waits for all of it."""
        if step not in self.norms:
            squares = sum(kernels.sum_of_squares(self._arrived(name, step)) for name in self.places)
            self.norms = {s: norm for s, norm in self.norms.items() if s > step - len(self.slots)}
            self.norms[step] = math.sqrt(squares)
        return self.norms[step]

    def _arrived(self, name, step):
        """A layer's sum of a step, when it is there."""
        self._wait(lambda: self.has_arrived(name, step), name)
        slot, (begin, end) = self.slots[step % len(self.slots)], self.places[name]
        gradient = slot.gradients[begin:end]
        self.wire.decode(slot.wire[begin:end], gradient)
        return gradient

    def as_completed(self, layers, step):
        """The layers, each when its sum of that step has arrived."""
        left = list(layers)
        while left:
            self._wait(lambda: any(self.has_arrived(layer.name, step) for layer in left), "any layer")  # noqa: B023
            arrived = [layer for layer in left if self.has_arrived(layer.name, step)]
            yield from arrived
            left = [layer for layer in left if layer not in arrived]

    def _wait(self, arrived, what):
        """Return when arrived() is true; do nothing else meanwhile."""
        def moved():
            self.engine.advance()
            self._check()
            return arrived()

        if not arrived():
            start = self.trace.now()
            with self.trace.span("exposed", f"wait {what}"):
                self.ranks.until(moved, what)
            self.exposed += self.trace.now() - start

    def _note(self, layer, step):
        """Tell the trace when this layer's messages were on their way; a message of many layers is its first one's."""
        slot = step % len(self.slots)
        for number in self.parts[layer.name]:
            message = self.messages[number]
            if message.layers[0] == layer.name:
                self.trace.request(message.name, step, *self.engine.times(slot, number))
