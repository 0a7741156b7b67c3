"""Layer-wise sums in the order in which the next forward needs them."""

import numpy as np

from mpilayer.base.state import State
from mpilayer.schedules import step_model
from mpilayer.schedules.delay_policy import Constant
from mpilayer.schedules.delayed import DelayedUpdates

PARTS = (1, 2, 4)  # of a chunk that are tried
LEAST = 64 << 10  # bytes, below which no chunk is cut further


class Planned(DelayedUpdates):
    """The same numbers as one-shot; what is needed early overtakes what is large and can wait.

        for l = L..1: g_l = backward(l) ; the messages of layer l may go
        meanwhile: of the messages that may go on every rank, the one goes whose layer the next forward reads first
        next forward, just before layer l reads w_l: Wait(messages of l) ; w_l -= lr * g_l / P

    The order needs no measurement, for ranks vote on it as they go (mpilayer/mpi/engine_loop.py); the size of messages
    does. It is simulated from a profile of the first steps; rank 0's plan is everyone's.
    """

    queue_options = {"order": "need"}
    measured = 4  # steps that the plan is made from

    keeps = *DelayedUpdates.keeps, "seen"

    def __init__(self, net, queue, optimizer):
        self.seen = 0
        super().__init__(net, queue, optimizer, Constant(0))

    def step(self, t, batch):
        """As layer-wise; when the first steps have been measured, make the plan."""
        super().step(t, batch)
        self.seen += 1
        if self.seen == self.measured:
            self.drain()
            self.rearrange()

    def rearrange(self):
        """Profile, simulate, and open the queue anew with the best size of messages."""
        ranks, durations = self.channel.ranks, self.channel.trace.durations()
        sums = ranks.total(np.array([durations[name] for name in sorted(durations)]))
        mean = dict(zip(sorted(durations), (sums / ranks.size).tolist(), strict=True))
        self.follow(*ranks.bcast(self._best(step_model.profile(self.net, mean))))
        self.open()
        self.channel.say(f"plan: {1e3 * self.prediction.seconds:.1f} ms a step,"
                         f" {1e3 * self.prediction.exposed:.1f} of it exposed")

    def follow(self, chunk, prediction):
        """From the next open() on, send pieces of that size; a Prediction says what a step takes then."""
        self.sizes, self.prediction = {"chunk": chunk}, step_model.Prediction(*prediction)

    def state(self):
        """As of all schedules, with the plan."""
        plan = [self.sizes["chunk"], self.prediction] if self.sizes else []
        return super().state() | State(values={"plan": plan})

    def restore(self, values):
        """As of all schedules, with the plan that there was."""
        if values["plan"]:
            self.follow(*values["plan"])
        super().restore(values)

    def _best(self, profile):
        """(size of a piece, Prediction) of the least seconds a step."""
        whole = self.channel.settings.chunk
        sizes = {whole and max(whole // parts, min(whole, LEAST)) for parts in PARTS}
        found = {chunk: self._predicted(chunk, profile) for chunk in sizes}
        return min(found.items(), key=lambda item: item[1].seconds)

    def _predicted(self, chunk, profile):
        settings = self.channel.settings
        messages = self.channel.cut(chunk=chunk)
        return step_model.predict(messages, self.net.layers, profile, lambda message: settings.link.share(
            4 * (message.end - message.begin), settings.lanes))
