"""The request queue: the sums that are on their way, and when each layer's must have arrived."""

import math
from collections import deque

import kernels
from mpilayer.base.errors import UserError
from mpilayer.compression.buckets import cut, due
from mpilayer.compression.payload import WIRES, Route
from mpilayer.exchange.channel import Traffic
from mpilayer.gpu.device import address
from mpilayer.gpu.staging import Here, stage
from mpilayer.mpi.collectives import REDUCTIONS, Calls
from mpilayer.mpi.engine import Engine
from mpilayer.mpi.progress import MOVING
from mpilayer.schedules.shards import place

MOST_LANES = 16  # where nothing starts the next message while a kernel runs
INT_BYTES = 4 * (2**31 - 1)


class Slot:
    """A gradient buffer of the net, what travels for it, and how many layers each message still lacks."""

    def __init__(self, gradients, cargo, messages):
        self.gradients, self.cargo = gradients, cargo
        self.lacking = [len(message.layers) for message in messages]
        self.decoded = set()  # layers whose sum is in the gradient buffer


class Queue(Traffic):
    """Non-blocking sums of gradients over the ranks. Every rank opens and posts alike."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.norms = {}  # of the gradients of the last steps, as far as somebody asked
        self.errors = {}  # what rounding or leaving out has lost so far, by layer
        self.calls, self.stage = Calls(self.ranks), Here()
        self.reduction = REDUCTIONS[self.settings.reduction](self.calls)
        self.wire = WIRES[self.settings.wire]

    def open(self, net, slots, bucket=..., chunk=..., by_need=False, split=False):
        """Prepare to sum the net's gradients of `slots` steps at a time; what was open before must have arrived.

        `bucket` and `chunk` take the place of the settings'. Messages go out in the order of memory and backward, or
        `by_need`: what forward reads first goes first. `split`: each is a reduce-scatter, in that order, and when all
        of them are under way an all-gather, in the order of forward.
        """
        self.close()
        self.ranks.meet()
        bucket, chunk = (default if value is ... else value for value, default in
                         ((bucket, self.settings.bucket), (chunk, self.settings.chunk)))
        self.messages = self.cut(net, bucket, chunk)
        self.places = {layer.name: place(net, layer) for layer in net.layers}
        self.parts = {name: [number for number, m in enumerate(self.messages) if name in m.layers]
                      for name in self.places}
        self.stage = stage(net, self.ranks, self.settings, self.trace, split)
        self.slots = [self._slot(net, number) for number in range(slots)]
        self.posted = {name: deque() for name in self.places}
        self.norms, self.first = {}, None
        self._start(net, by_need, split)
        self.resume()

    def cut(self, net, bucket, chunk):
        """The messages of a net's gradient."""
        places = self.wire.places(net, self.settings)
        layers = sorted(((name, *ends) for name, ends in places.items()), key=lambda layer: layer[1])
        if self.wire.whole:
            chunk = None
        if not self.calls.persistent:  # MPI 3 counts elements with an int
            chunk = min(chunk or INT_BYTES, INT_BYTES)
        return cut(layers, bucket, chunk)

    def _start(self, net, by_need, split):
        """The engine, with the messages of all slots; `last` is the number that each message ends as."""
        moving = self.stage.polls or self.settings.progress in MOVING
        lanes = self.settings.lanes if moving else MOST_LANES
        needed, M = due(self.messages, net.layers), len(self.messages)
        self.last, follow = [*range(M)], None
        if split:
            for number, message in enumerate(sorted(range(M), key=needed.__getitem__)):
                self.last[message] = M + number
            follow = [*self.last, *[-1] * M]
        stages = [self._stages(slot.cargo, lanes, split) for slot in self.slots]
        self.engine = Engine(stages, lanes, self.calls.test, needed if by_need else None, self.calls.vote, follow)
        self.stage.open(self.engine, self.last, [slot.cargo for slot in self.slots])

    def _stages(self, cargo, lanes, split):
        M = len(self.messages)
        if not split:
            return [cargo.stages(number, number % lanes) for number in range(M)]
        stages = [None] * (2 * M)
        for number, last in enumerate(self.last):
            stages[number], stages[last] = cargo.halves(number, number % lanes, last % lanes)
        return stages

    def _slot(self, net, number):
        net.write_gradients_to(number)
        route = Route(self.calls, self.reduction, self.settings, self.errors, self.messages, self.places,
                      self.wire.places(net, self.settings), self.stage)
        return Slot(net.whole.g, self.wire(route, net), self.messages)

    def resume(self):
        """Messages move from here on."""
        super().resume()
        way = self.move
        self.move = lambda: self.stage.move(way)

    @property
    def quiet(self):
        """Whether nothing is on its way."""
        return self.engine.quiet and self.stage.quiet

    def reached(self):
        """A function that tells whether all has been computed that was to be by now."""
        return self.stage.reached()

    @property
    def how(self):
        """In words: how the gradients of a GPU come to MPI."""
        return self.stage.how

    def close(self):
        """Give back what MPI made for this. Raises RuntimeError if sums are in flight."""
        super().close()
        self.stage.close()
        self.calls.free()

    def post(self, step, layer):
        """Start summing `layer.g` over the ranks, when its turn comes. Raises RuntimeError for memory in flight."""
        if self.first is None:
            self.first = step
            self.engine.first(step % len(self.slots))
        posted, slot = self.posted[layer.name], self.slots[step % len(self.slots)]
        elsewhere = address(layer.g) != address(slot.cargo.gradient[layer.name])
        if elsewhere or (posted and posted[0] + len(self.slots) <= step):
            raise RuntimeError(f"step {step} | {layer.name} | posted while another sum in that memory is in"
                               " flight | expected it to be settled first: a delay of k needs k + 1 gradient buffers")
        posted.append(step)
        slot.decoded.discard(layer.name)
        slot.cargo.encode(layer.name)
        ready = [self._ready(step, number) for number in self.parts[layer.name]]
        if any(ready):
            self._advance()
        else:
            self.test()

    def _ready(self, step, number):
        """Whether this was the last layer that a message lacked; then it may go."""
        place = step % len(self.slots)
        slot = self.slots[place]
        slot.lacking[number] -= 1
        self.stage.expect(place, number)
        if slot.lacking[number]:
            return False
        slot.lacking[number] = len(self.messages[number].layers)
        self.stage.leave(place, number)
        return True

    def _advance(self):
        """Start what may be started."""
        with self.trace.span("mpi", "post"):
            self._move()

    def _move(self):
        self.stage.move(self.engine.advance)
        self._check()

    def _check(self):
        if self.engine.error:
            raise UserError(f"MPI failed while summing gradients: {self.calls.MPI.Get_error_string(self.engine.error)}"
                            " | try: python -m mpilayer.info, another --reduction or --progress")

    def has_arrived(self, name, step):
        """Whether the sum of a layer's gradients of a step is there."""
        return all(self.stage.there(step % len(self.slots), number) for number in self.parts[name])

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

    def norm(self, step):
        """Norm of the sum of all gradients of a step; waits for all of it."""
        if step not in self.norms:
            sums = [self._arrived(name, step) for name in self.places]
            if self.stage.polls:  # one look at the GPU, not many; between layers are zeros
                sums = [self.slots[step % len(self.slots)].gradients]
            self.norms = {s: norm for s, norm in self.norms.items() if s > step - len(self.slots)}
            self.norms[step] = math.sqrt(sum(map(kernels.sum_of_squares, sums)))
        return self.norms[step]

    def _arrived(self, name, step):
        """A layer's sum of a step, when it is there."""
        self.wait(lambda: self.has_arrived(name, step), name)
        slot = self.slots[step % len(self.slots)]
        if name not in slot.decoded:
            waits = [self.stage.enter(step % len(self.slots), number) for number in self.parts[name]]
            if any(waits):
                self.trace.waited(name)
            slot.cargo.decode(name)
            slot.decoded.add(name)
        return slot.cargo.gradient[name]

    def as_completed(self, layers, step):
        """The layers, each when its sum of that step has arrived."""
        left = list(layers)
        while left:
            self.wait(lambda: any(self.has_arrived(layer.name, step) for layer in left), "any layer")  # noqa: B023
            arrived = [layer for layer in left if self.has_arrived(layer.name, step)]
            yield from arrived
            left = [layer for layer in left if layer not in arrived]

    def wait(self, arrived, what, kind="exposed"):
        """Return when arrived() is true; do nothing else meanwhile."""
        def moved():
            self._move()
            return arrived()

        super().wait(moved, what, kind)

    def _note(self, layer, step):
        """Tell the trace when this layer's messages were on their way; a message of many layers is its first one's."""
        slot = step % len(self.slots)
        for number in self.parts[layer.name]:
            message = self.messages[number]
            if self.stage.sends and message.layers[0] == layer.name:
                halves = [number] if self.last[number] == number else [number, self.last[number]]
                for half in halves:
                    self.trace.request(message.name, step, *self.engine.times(slot, half))
