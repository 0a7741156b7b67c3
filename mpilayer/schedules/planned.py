"""Layer-wise sums in the order in which the next forward needs them."""

import numpy as np

from mpilayer.base.state import State
from mpilayer.model.profile import profile
from mpilayer.model.programs import Work
from mpilayer.model.step import Prediction, predict
from mpilayer.model.wire import Wire
from mpilayer.schedules.delay_policy import Constant
from mpilayer.schedules.delayed import DelayedUpdates

PARTS = (1, 2, 4)  # of a chunk that are tried
LEAST = 64 << 10  # bytes, below which no chunk is cut further
GAIN = 0.98  # overtaking must bring this much: what votes cost is not in the prediction


def pieces(chunk):
    """The sizes of a piece in bytes that are worth trying where `chunk` is the largest, None for no limit."""
    return sorted({max(chunk // parts, min(chunk, LEAST)) for parts in PARTS}) if chunk else [None]


def profile_of(net, channel):
    """The Profile of the last steps, means over the ranks; all of them call this together."""
    ranks, durations = channel.ranks, channel.trace.durations()
    sums = ranks.total(np.array([durations[name] for name in sorted(durations)]))
    return profile(net, dict(zip(sorted(durations), (sums / ranks.size).tolist(), strict=True)))


class Planned(DelayedUpdates):
    """The same numbers as one-shot; what is needed early overtakes what is large and can wait.

        for l = L..1: g_l = backward(l) ; the messages of layer l may go
        meanwhile: of the messages that may go on every rank, the one goes whose layer the next forward reads first
        next forward, just before layer l reads w_l: Wait(messages of l) ; w_l -= lr * g_l / P

    Which may go on every rank needs no measurement, for ranks vote on it as they go (mpilayer/mpi/engine_loop.py). The
    size of messages does, and whether overtaking gains anything: both are simulated from a profile of the first steps,
    and rank 0's plan is everyone's. Where messages are not started while a layer computes, nothing can overtake, and
    they go as they come.
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
        self.follow(*self.channel.ranks.bcast(self._best(profile_of(self.net, self.channel))))
        self.open()
        self.channel.say(f"plan: {1e3 * self.prediction.seconds:.1f} ms a step,"
                         f" {1e3 * self.prediction.exposed:.1f} of it exposed; messages in the order of"
                         f" {'forward' if self.plan['order'] == 'need' else 'backward'}")

    def follow(self, chunk, prediction, order="need"):
        """From the next open() on, send pieces of that size so; a Prediction says what a step takes then."""
        self.plan, self.prediction = {"chunk": chunk, "order": order}, Prediction(*prediction)

    def state(self):
        """As of all schedules, with the plan."""
        plan = [self.plan["chunk"], self.prediction, self.plan["order"]] if self.plan else []
        return super().state() | State(values={"plan": plan})

    def restore(self, values):
        """As of all schedules, with the plan that there was."""
        if values["plan"]:
            self.follow(*values["plan"])
        super().restore(values)

    def _best(self, computing):
        """(size of a piece, Prediction, order) of the least seconds a step, from a Profile."""
        chunk = self.channel.settings.chunk
        as_they_come = chunk, self._predicted("layerwise", computing, chunk), "backward"
        if not self.channel.moves_while_computing:
            return as_they_come
        by_need = ((piece, self._predicted("planned", computing, piece), "need") for piece in pieces(chunk))
        best = min(by_need, key=lambda found: found[1].seconds)
        return best if best[1].seconds < GAIN * as_they_come[1].seconds else as_they_come

    def _predicted(self, schedule, computing, chunk):
        """The Prediction of a step with pieces of that size."""
        settings = self.channel.settings
        return predict(schedule, Work(computing, self.net.layers, self.channel.cut(chunk=chunk)),
                       Wire.of(settings.link, settings.lanes))
