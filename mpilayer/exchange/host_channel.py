"""How gradients in memory of this process come to MPI; those on a GPU: mpilayer/gpu/device_queue.py."""

from mpilayer.base.errors import UserError
from mpilayer.exchange.channel import Channel
from mpilayer.mpi.progress import MOVING


class HostChannel(Channel):
    """What GradientQueue does differently for gradients on a GPU; it has `settings`, `engine` and `messages`."""

    engine_alone = True

    @property
    def moves_while_computing(self):
        """Whether messages are started while kernels run, so that few need to be in flight at a time."""
        return self.settings.progress in MOVING

    def attach(self):
        """Gradients lie where MPI sums them. Raises UserError for a reduction that needs GPUs."""
        if self.settings.reduction == "nccl":
            raise UserError("reduction nccl sums among GPUs | expected a net on a GPU | try: native")

    @staticmethod
    def mirror(array):
        """What MPI sums in place of an array."""
        return array

    def begin_message(self, slot, number):
        """A message is being filled."""
        for half in {number, self.messages.last[number]}:
            self.engine.mark(slot, half, ready=False)

    def send_message(self, slot, number):
        """A message is complete."""
        self.engine.mark(slot, number, ready=True)

    def has_arrived(self, name, step):
        """Whether the sum of a layer's gradients of a step is there."""
        slot = step % len(self.slots)
        return all(self.engine.arrived(slot, self.messages.last[number]) for number in self.messages.parts[name])

    def take_in(self, name, step):
        """What is computed from here on reads a layer's sum."""

    def summands(self, sums, step):
        """Arrays whose squares add up to those of all sums of a step."""
        return sums
