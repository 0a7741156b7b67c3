"""The request queue of gradients that lie on a GPU."""

from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.gpu.staging import transfer


class DeviceGradientQueue(GradientQueue):
    """As GradientQueue; `transfer` (mpilayer/gpu/staging.py) is the way from the GPU to MPI and back.

    The core that launches kernels is free meanwhile, so it looks after messages all the time.
    """

    transfer, moves_while_computing, engine_alone = None, True, False

    def attach(self):
        """Choose the way to MPI."""
        self.transfer = transfer(self.ranks, self.settings, self.trace, self.messages.order)

    def _start(self):
        super()._start()
        self.transfer.open(self.engine, self.messages.last, [slot.payload for slot in self.slots])

    @property
    def quiet(self):
        """Whether nothing is on its way."""
        return self.engine.quiet and self.transfer.quiet

    @property
    def description(self):
        """In words: how gradients come to MPI."""
        return self.transfer.description if self.transfer else ""

    def close(self):
        """Give back what MPI made for this. Raises RuntimeError if sums are in flight."""
        opened = self.engine is not None
        super().close()
        if opened:
            self.transfer.close()

    def mirror(self, array):
        """What MPI sums in place of an array."""
        return self.transfer.mirror(array)

    def move(self):
        """Hand over what has left the GPU, start and test messages, hand back what has come."""
        self.transfer.move(super().move)

    def move_between_layers(self):
        """Copies are for this core to look after, whatever moves messages."""
        self.transfer.move(super().move_between_layers)

    def reached(self):
        """A function that tells whether all has been computed that was to be by now."""
        return self.transfer.reached()

    def begin_message(self, slot, number):
        """A message is being filled."""
        super().begin_message(slot, number)
        self.transfer.expect(slot, number)

    def send_message(self, slot, number):
        """A message is complete, or will be by what the GPU was told so far."""
        self.transfer.leave(slot, number)

    def has_arrived(self, name, step):
        """Whether a layer's sum is there, or the GPU was told of it."""
        return all(self.transfer.there(step % len(self.slots), number) for number in self.messages.parts[name])

    def complete(self):
        """Wait until every sum is back on the GPU."""
        for name, steps in self.posting.pending.items():
            for step in steps:
                self._arrived(name, step)

    def take_in(self, name, step):
        """The net's stream waits for the copies back."""
        waits = [self.transfer.enter(step % len(self.slots), number) for number in self.messages.parts[name]]
        if any(waits):
            self.trace.waited(name)

    def summands(self, sums, step):
        """The whole buffer: one look at the GPU, not many; between layers are zeros."""
        return [self.slots[step % len(self.slots)].payload.flat]

    def _note(self, name, step):
        if self.transfer.sends:
            super()._note(name, step)
