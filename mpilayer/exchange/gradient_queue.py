"""The request queue: the sums that are on their way, and when each layer's must have arrived."""

import math

import kernels
from kernels.gpu import address
from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.compression.buckets import cut, due
from mpilayer.compression.payload import PayloadContext
from mpilayer.exchange import probe
from mpilayer.exchange.channel import Channel, silent
from mpilayer.exchange.posting import Posting, by_name
from mpilayer.exchange.settings import AUTO, MOST_LANES, one_of, settings_of
from mpilayer.mpi.collectives import REDUCTIONS, Calls
from mpilayer.mpi.engine import Engine
from mpilayer.mpi.progress import MOVING

INT_BYTES = 4 * (2**31 - 1)
ORDERS = ("backward", "need", "split")


class Slot:
    """A gradient buffer, what travels for it, and how many layers each message still lacks."""

    def __init__(self, payload, buckets):
        self.payload, self.lacking = payload, [len(bucket.layers) for bucket in buckets]
        self.decoded = set()  # layers whose sum is in the gradient buffer


class GradientQueue(Channel):
    """Sums gradients over the ranks in the background, by a non-blocking collective for each message.

    A sum may be applied up to `delay` steps late: the steps use delay + 1 gradient buffers in turn. All ranks make the
    queue together, and must post the same layers in the same order.

    parameters   Parameters, or a net (nets.Net)
    delay        steps that a sum may be late; None: open() is called later
    order        of messages: "backward": as they are posted; "need": what forward reads first overtakes the rest;
                 "split": reduce-scatters as they are posted, then all-gathers in the order of forward
    average      whether settle() gives means over the ranks instead of sums
    given        fields of Settings, such as wire="bfloat16"; progress, bucket and chunk are measured if not given
    settings     Settings, in place of those
    trace        mpilayer.base.tracing.Trace, which counts where the time goes
    say          a function that is called with a line of text when something was decided; default: nothing is printed

    Raises UserError for an unknown name, and where MPI fails; RuntimeError for wrong use.
    """

    def __init__(self, ranks, parameters, *, delay=0, order="backward", average=False, settings=None, trace=None,
                 say=silent, **given):
        settings = settings or probe.choose(ranks, settings_of(AUTO | given), parameters.weights.nbytes, say)
        super().__init__(ranks, settings, trace, say)
        self.parameters = parameters
        self.layers = by_name(parameters.layers)
        self.scale = 1 / ranks.size if average else 1
        self.norms = {}  # of the gradients of the last steps, as far as somebody asked
        self.calls = Calls(self.ranks)
        self.reduction = REDUCTIONS[settings.reduction](self.calls)
        self.compressor = COMPRESSORS[settings.wire](**dict(settings.wire_options))
        if delay is not None:
            self.open(delay=delay, order=order)

    def open(self, delay=0, order="backward", bucket=..., chunk=...):
        """Begin anew with this delay, order and size of messages, by default those of the settings.

        All ranks call this together. Raises RuntimeError if sums are in flight, and UserError for an unknown order.
        """
        self.close()
        self.ranks.meet()
        bucket, chunk = (default if value is ... else value for value, default in
                         ((bucket, self.settings.bucket), (chunk, self.settings.chunk)))
        self.order, self.buckets = one_of("order", order, ORDERS), self.cut(bucket, chunk)
        self.attach()
        self.parts = {name: [number for number, b in enumerate(self.buckets) if name in b.layers]
                      for name in self.layers}
        context = PayloadContext(self.calls, self.reduction, self.layers, self.buckets, self.parameters.offsets,
                                 self.compressor.offsets(self.parameters), self.mirror)
        self.slots = [Slot(self.compressor.open(context, self.parameters.gradient_buffer(number)), self.buckets)
                      for number in range(delay + 1)]
        self.posting = Posting([layer.name for layer in self.parameters.backward_layers], len(self.slots))
        self.norms = {}
        self._start()
        self.resume()

    def cut(self, bucket, chunk):
        """The messages (mpilayer.compression.buckets.Bucket) that the gradient makes with these sizes in bytes."""
        offsets = self.compressor.offsets(self.parameters)
        layers = sorted(((name, *ends) for name, ends in offsets.items()), key=lambda layer: layer[1])
        if self.compressor.whole:
            chunk = None
        if not self.calls.persistent:  # MPI 3 counts elements with an int
            chunk = min(chunk or INT_BYTES, INT_BYTES)
        return cut(layers, bucket, chunk)

    def _start(self):
        """The engine, with the messages of all slots; `last` is the number that each message ends as."""
        lanes = self.settings.lanes if self.moves_while_computing else MOST_LANES
        needed, M = due(self.buckets, self.parameters.layers), len(self.buckets)
        self.last, follow = [*range(M)], None
        if self.order == "split":
            for number, message in enumerate(sorted(range(M), key=needed.__getitem__)):
                self.last[message] = M + number
            follow = [*self.last, *[-1] * M]
        operations = [self._operations(slot.payload, lanes) for slot in self.slots]
        self.engine = Engine(operations, lanes, self.calls.test, needed if self.order == "need" else None,
                             self.calls.vote, follow)

    def _operations(self, payload, lanes):
        M = len(self.buckets)
        if self.order != "split":
            return [payload.operations(number, number % lanes) for number in range(M)]
        operations = [None] * (2 * M)
        for number, last in enumerate(self.last):
            operations[number], operations[last] = payload.halves(number, number % lanes, last % lanes)
        return operations

    def close(self):
        """Stop, and free what MPI made for this; all ranks together. Raises RuntimeError for sums not settled."""
        if self.engine and not self.engine.error:
            self.posting.check_settled()
        super().close()
        self.engine = None
        self.calls.free()

    def gradient(self, name, step):
        """Memory for a layer's gradient of a step: float32 of its shape. Raises RuntimeError if it is in flight."""
        self._check_open()
        self.posting.check_free(step, name)
        return self._shaped(name, self.gradients(step)[name])

    def gradients(self, step):
        """{name of a layer: its flat gradient} in the buffer that a step uses."""
        return self.slots[step % len(self.slots)].payload.gradient

    def _shaped(self, name, flat):
        shapes = getattr(self.layers[name], "shapes", {})
        return flat.reshape(next(iter(shapes.values()))) if len(shapes) == 1 else flat

    def post(self, step, layer):
        """Hand in the gradient of a layer, or of its name; its sum begins when its turn comes. Returns at once.

        Raises RuntimeError for memory in flight, a layer posted twice, and a step before all of the last was posted.
        """
        name = layer if isinstance(layer, str) else layer.name
        self._check_open()
        if self.posting.step is None:
            self.engine.first(step % len(self.slots))
        self.posting.add(step, name)
        self._check_memory(step, layer)
        slot = self.slots[step % len(self.slots)]
        slot.decoded.discard(name)
        if self.scale != 1:
            slot.payload.gradient[name] *= self.scale
        slot.payload.encode(name)
        ready = [self._ready(step, number) for number in self.parts[name]]
        if any(ready):
            with self.trace.span("mpi", "post"):
                self.move()
        else:
            self.test()

    def finish(self, step):
        """Post zeros for the layers of a step that were not posted, in the order of memory; a list of their names."""
        missing = self.posting.missing() if step == self.posting.step else self.posting.layers
        for name in missing:
            self.gradient(name, step)[...] = 0
            self.post(step, name)
        return missing

    def _check_open(self):
        if self.engine is None:
            raise RuntimeError("the request queue is closed | expected post, settle and gradient before close()")

    def _check_memory(self, step, layer):
        if not isinstance(layer, str) and address(layer.g) != address(self.gradients(step)[layer.name]):
            raise RuntimeError(f"step {step} | {layer.name} | its gradient is not in the memory of this step"
                               " | expected what gradient() or write_gradients_to() gives: a delay of k needs k + 1"
                               " gradient buffers")

    def _ready(self, step, number):
        """Whether this was the last layer that a message lacked; then it may go."""
        position = step % len(self.slots)
        slot = self.slots[position]
        slot.lacking[number] -= 1
        self.begin_message(position, number)
        if slot.lacking[number]:
            return False
        slot.lacking[number] = len(self.buckets[number].layers)
        self.send_message(position, number)
        return True

    def settle(self, layer, up_to):
        """Yield (step, sum) of a layer, or of its name, for each step up to `up_to` that is not settled, oldest first.

        Waits for sums that have not arrived. They are flat for a layer, of its shape for a name, and good until the
        gradient of step + delay + 1 is written. Raises RuntimeError if a sum cannot arrive, for want of other layers.
        """
        self._check_open()
        name = layer if isinstance(layer, str) else layer.name
        if name in self.posting.unposted and up_to >= self.posting.step:
            self._check_complete(name)
        pending = self.posting.pending[name]
        while pending and pending[0] <= up_to:
            step = pending[0]
            gradient = self._arrived(name, step)
            self._note(name, step)
            pending.popleft()
            yield step, self._shaped(name, gradient) if layer is name else gradient
        self.test()

    def norm(self, step):
        """Euclidean norm of the sums of all layers of a step, a float; waits for all of them."""
        if step not in self.norms:
            sums = self.summands([self._arrived(name, step) for name in self.layers], step)
            self.norms = {s: norm for s, norm in self.norms.items() if s > step - len(self.slots)}
            self.norms[step] = math.sqrt(sum(map(kernels.sum_of_squares, sums)))
        return self.norms[step]

    def _arrived(self, name, step):
        """A layer's sum of a step, when it is there."""
        if not self.has_arrived(name, step):
            if step == self.posting.step:
                self._check_complete(name)
            self.wait(lambda: self.has_arrived(name, step), name)
        slot = self.slots[step % len(self.slots)]
        if name not in slot.decoded:
            self.take_in(name, step)
            slot.payload.decode(name)
            slot.decoded.add(name)
        return slot.payload.gradient[name]

    def _check_complete(self, name):
        """Messages go in order: those up to this layer's last one must have been filled."""
        last = max(self.parts[name])
        self.posting.check_complete(name, {other for other, parts in self.parts.items() if min(parts) <= last})

    def as_completed(self, layers, step):
        """Yield the layers in the order in which their sums of a step arrive; waits meanwhile."""
        left = list(layers)
        while left:
            self.wait(lambda: any(self.has_arrived(layer.name, step) for layer in left), "any layer")  # noqa: B023
            arrived = [layer for layer in left if self.has_arrived(layer.name, step)]
            yield from arrived
            left = [layer for layer in left if layer not in arrived]

    @property
    def drained(self):
        """Whether every sum has been settled."""
        return not any(self.posting.pending.values())

    def move(self):
        """Start and test messages. Raises UserError if MPI failed."""
        super().move()
        if self.engine.error:
            raise UserError(f"MPI failed while summing gradients: {self.calls.MPI.Get_error_string(self.engine.error)}"
                            " | try: python -m mpilayer.info, another --reduction or --progress")

    def _note(self, name, step):
        """Tell the trace when a layer's messages were on their way; a message of many layers is its first one's."""
        slot = step % len(self.slots)
        for number in (number for number in self.parts[name] if self.buckets[number].layers[0] == name):
            for half in dict.fromkeys((number, self.last[number])):
                self.trace.request(self.buckets[number].name, step, *self.engine.times(slot, half))

    # What is different for gradients on a GPU: mpilayer/gpu/device_queue.py

    @property
    def moves_while_computing(self):
        """Whether messages are started while kernels run, so that few need to be in flight at a time."""
        return self.settings.progress in MOVING

    def attach(self):
        """Gradients lie where MPI sums them."""

    @staticmethod
    def mirror(array):
        """What MPI sums in place of an array."""
        return array

    def begin_message(self, slot, number):
        """A message is being filled."""
        for half in {number, self.last[number]}:
            self.engine.mark(slot, half, ready=False)

    def send_message(self, slot, number):
        """A message is complete."""
        self.engine.mark(slot, number, ready=True)

    def has_arrived(self, name, step):
        """Whether the sum of a layer's gradients of a step is there."""
        slot = step % len(self.slots)
        return all(self.engine.arrived(slot, self.last[number]) for number in self.parts[name])

    def take_in(self, name, step):
        """What is computed from here on reads a layer's sum."""

    def summands(self, sums, step):
        """Arrays whose squares add up to those of all sums of a step."""
        return sums
