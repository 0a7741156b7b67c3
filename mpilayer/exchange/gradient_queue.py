"""The request queue: the sums that are on their way, and when each layer's must have arrived."""

import math
from collections.abc import Callable, Iterator

import numpy as np

import kernels
from kernels.gpu import address
from mpilayer.base.errors import UserError
from mpilayer.base.tracing import Trace
from mpilayer.compression import COMPRESSORS
from mpilayer.compression.payload import PayloadContext
from mpilayer.exchange import automatic, opening
from mpilayer.exchange.channel import silent
from mpilayer.exchange.host_channel import HostChannel
from mpilayer.exchange.messages import Messages, Slot, buckets_of
from mpilayer.exchange.posting import Posting, by_name
from mpilayer.exchange.settings import MOST_LANES, Settings
from mpilayer.mpi import ulfm
from mpilayer.mpi.collectives import Calls
from mpilayer.mpi.engine import Engine
from mpilayer.mpi.ranks import Ranks
from mpilayer.mpi.reductions import REDUCTIONS


class GradientQueue(HostChannel):
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

    keeps = "posting", "compressor", "kept_slots"

    def __init__(self, ranks: Ranks, parameters, *, delay: int | None = 0, order: str = "backward",
                 average: bool = False, settings: Settings | None = None, trace: Trace | None = None,
                 say: Callable = silent, **given):
        settings = automatic.resolved(ranks, settings, given, parameters.weights, say)
        super().__init__(ranks, settings, trace, say)
        self.parameters, self.layers = parameters, by_name(parameters.layers)
        self.scale = 1 / ranks.size if average else 1
        self.calls = Calls(self.ranks)
        self.compressor = COMPRESSORS[settings.wire](**dict(settings.wire_options))
        if delay is not None:
            self.open(delay=delay, order=order)

    def open(self, delay: int = 0, order: str = "backward", **sizes):
        """Begin anew, with messages of `bucket` and `chunk` bytes if given, else of the settings'.

        All ranks call this together. Raises RuntimeError for sums not settled; UserError for a delay or order unknown,
        and if ranks differ.
        """
        self.close()
        opening.check_alone(self)
        opening.check(self.ranks, self.parameters.layers, self.settings, delay=delay, order=order, **sizes)
        self.messages = Messages(self.cut(**sizes), self.parameters.layers, order)
        self.compressor.check(self.settings.reduction, order)
        self.attach()
        buckets = self.messages.buckets
        reduction = REDUCTIONS[self.settings.reduction](self.calls)
        context = PayloadContext(self.calls, reduction, self.layers, buckets, self.parameters.offsets,
                                 self.compressor.offsets(self.parameters), self.mirror)
        flat = map(self.parameters.gradient_buffer, range(delay + 1))
        self.slots = [Slot(self.compressor.open(context, gradient), buckets) for gradient in flat]
        self.posting = Posting([layer.name for layer in self.parameters.backward_layers], delay + 1, order == "need")
        self.places = {}  # of gradients that are written as they travel
        self.norms = {}  # of the gradients of the last steps, as far as somebody asked
        self._start()
        self.resume()

    def place_gradients(self):
        """Let layers of a net write gradients in bfloat16, as they travel, where they can and that is the wire: they
        need not be rounded afterwards.
        """
        self.places = {number: slot.payload.places() for number, slot in enumerate(self.slots)}
        able = self._round_gradients()
        for number, slot in enumerate(self.slots):
            slot.payload.gradient |= {name: place for name, place in self.places[number].items() if name in able}

    def _round_gradients(self):
        """The names of the layers that can write to the places there are; what is no Net writes float32."""
        known = hasattr(self.parameters, "round_gradients")
        return self.parameters.round_gradients(self.places) if known else ()

    def cut(self, **sizes):
        """The messages (mpilayer.compression.buckets.Bucket) of the gradient, for `bucket` and `chunk` in bytes."""
        settings = self.settings._replace(**sizes)
        return buckets_of(self.parameters, self.compressor, settings.bucket, settings.chunk, self.ranks.size)

    def _start(self):
        lanes = self.settings.lanes if self.moves_while_computing else MOST_LANES
        operations = [self.messages.operations(slot.payload, number, lanes) for number, slot in enumerate(self.slots)]
        self.engine = Engine(operations, lanes, self.calls.test, self.messages.due, self.calls.vote,
                             self.messages.follow, self.messages.labels, self.ranks.recorder)

    def resume(self):
        """Messages move from here on. Raises RuntimeError if another queue of these parameters is open."""
        opening.check_alone(self)
        self._round_gradients()
        super().resume()

    def close(self):
        """Stop, and free what MPI made for this; all ranks together. Raises RuntimeError for sums not settled."""
        if self.engine and not self.engine.error:
            self.posting.check_settled()
        super().close()
        self.engine = None
        self.calls.free()

    def gradient(self, name: str, step: int) -> np.ndarray:
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

    def post(self, step: int, layer) -> None:
        """Hand in the gradient of a layer, or of its name; its sum begins when its turn comes. Returns at once.

        Raises RuntimeError for memory in flight, a layer posted twice, and a step before all of the last was posted.
        """
        self._check_open()
        name = self._check_memory(step, layer)
        position = step % len(self.slots)
        slot = self.slots[position]
        self.posting.add(step, name, self.messages.begun_by(name, slot.lacking))
        self.engine.uses(position, step)
        slot.decoded.discard(name)
        if self.scale != 1:
            slot.payload.gradient[name] *= self.scale
        slot.payload.encode(name)
        ready = [self._ready(step, number) for number in self.messages.parts[name]]
        if any(ready):
            with self.trace.span("mpi", "post"):
                self.move()
        else:
            self.test()

    def finish(self, step: int) -> list[str]:
        """Post zeros for the layers of a step that were not posted, in the order of memory; a list of their names."""
        self._check_open()
        missing = self.posting.missing() if step == self.posting.step else self.posting.layers
        for name in missing:
            self.gradient(name, step)[...] = 0
            self.post(step, name)
        return missing

    def _check_open(self):
        if self.engine is None:
            raise RuntimeError("the request queue is closed | expected post, settle and gradient before close()")

    def _check_memory(self, step, layer):
        """The name of what is posted, a layer or a name; a layer's gradient must be in this step's buffer."""
        self.posting.check_step(step)
        if not hasattr(layer, "name"):
            return layer
        own = self.gradients(step).get(layer.name)
        if own is not None and address(layer.g) != address(own):
            raise RuntimeError(f"step {step} | {layer.name} | its gradient is not in the memory of this step"
                               " | expected what gradient() or write_gradients_to() gives: a delay of k needs k + 1"
                               " gradient buffers")
        return layer.name

    def _ready(self, step, number):
        """Whether this was the last layer that a message lacked; then it may go."""
        position = step % len(self.slots)
        slot = self.slots[position]
        slot.lacking[number] -= 1
        self.begin_message(position, number)
        if slot.lacking[number]:
            return False
        slot.lacking[number] = len(self.messages.buckets[number].layers)
        self.send_message(position, number)
        return True

    def settle(self, layer, up_to: float, as_sent: bool = False) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (step, sum) of a layer, or of its name, for each step up to `up_to` that is not settled, oldest first.

        Waits for sums that have not arrived. They are flat for a layer, of its shape for a name, and good until the
        gradient of step + delay + 1 is written. With `as_sent` what wire bfloat16 has rounded stays so, uint16 with its
        bits, as updates of the kernels take it. Raises RuntimeError if a sum cannot arrive, for want of other layers.
        """
        self._check_open()
        name = getattr(layer, "name", layer)
        self.posting.check_name(name, up_to)
        if name in self.posting.unposted and up_to >= self.posting.step:
            self.posting.check_complete(name, self.messages.before(name))
        pending = self.posting.pending[name]
        while pending and pending[0] <= up_to:
            step = pending[0]
            gradient = self._arrived(name, step, as_sent)
            self._note(name, step)
            pending.popleft()
            yield step, self._shaped(name, gradient) if layer is name else gradient
        self.test()

    def norm(self, step: int) -> float:
        """Euclidean norm of the sums of all layers of a step, a float; waits for all of them."""
        self._check_open()
        if step not in self.norms:
            sums = self.summands([self._arrived(name, step) for name in self.layers], step)
            self.norms = {s: norm for s, norm in self.norms.items() if s > step - len(self.slots)}
            self.norms[step] = math.sqrt(sum(map(kernels.sum_of_squares, sums)))
        return self.norms[step]

    def _arrived(self, name, step, as_sent=False):
        """A layer's sum of a step, when it is there."""
        self._check_arriving(name, step)
        slot = self.slots[step % len(self.slots)]
        if name not in slot.decoded:
            self._await(name, step)
            self.take_in(name, step)
            if as_sent and (found := slot.payload.as_sent(name)) is not None:
                return found
            slot.payload.decode(name)
            slot.decoded.add(name)
        return slot.payload.sums[name]

    def _await(self, name, step):
        """Wait for a layer's sum of a step."""
        if not self.has_arrived(name, step):
            self.wait(lambda: self.has_arrived(name, step), name)

    def _check_arriving(self, name, step):
        """Raise RuntimeError if a sum would be waited for without end, or is no longer there."""
        self.posting.check_posted(step, name)
        if step == self.posting.step:
            self.posting.check_complete(name, self.messages.before(name))

    def as_completed(self, layers, step):
        """Yield the layers in the order in which their sums of a step arrive; waits meanwhile."""
        self._check_open()
        left = list(layers)
        for layer in left:
            self._check_arriving(layer.name, step)
        while left:
            self.wait(lambda: any(self.has_arrived(layer.name, step) for layer in left), "any layer")  # noqa: B023
            arrived = [layer for layer in left if self.has_arrived(layer.name, step)]
            yield from arrived
            left = [layer for layer in left if layer not in arrived]

    @property
    def drained(self) -> bool:
        """Whether every sum has been settled."""
        return not any(self.posting.pending.values())

    @property
    def kept_slots(self):
        """{number: Slot} of the gradient buffers that the next steps depend on."""
        used = self.posting.in_use()
        return {number: slot for number, slot in enumerate(self.slots) if number in used or slot.payload.lasting}

    def complete(self):
        """Wait until every sum has arrived; none is settled."""
        for name, steps in self.posting.pending.items():
            for step in steps:
                self._await(name, step)

    def restored(self):
        """The sums of another queue, which have arrived, are in the slots."""
        for number in self.posting.in_use():
            self.engine.restore(number)

    def move(self):
        """Start and test messages. Raises UserError if MPI failed, its exception where that may mean a dead rank."""
        self._check_open()
        super().move()
        if self.engine.error:
            if ulfm.missing(self.calls.MPI) is None:
                raise self.calls.MPI.Exception(self.engine.error)
            raise UserError(f"MPI failed while summing gradients: {self.calls.MPI.Get_error_string(self.engine.error)}"
                            " | try: python -m mpilayer.info, another --reduction or --progress")

    def _note(self, name, step):
        """Tell the trace when a layer's messages were on their way; a message of many layers is its first one's."""
        for message, number in self.messages.carrying(name):
            began, ended = self.engine.times(step % len(self.slots), number)
            if ended:  # else it was restored
                self.trace.request(message, step, began, ended)
