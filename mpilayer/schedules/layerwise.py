"""Synchronous SGD with one collective a layer, overlapped with backward and the next forward."""

from mpilayer.base.cli import Option
from mpilayer.schedules.delay_policy import Constant
from mpilayer.schedules.delayed import DelayedUpdates


def lazy(schedule, t):
    """Nothing now: Wait(request[l]) ; w_l -= lr * g_l / P just before the next forward reads w_l."""


def ordered(schedule, t):
    """For l = L..1: Wait(request[l]) ; w_l -= lr * g_l / P."""
    for layer in schedule.net.backward_layers:
        schedule.apply(layer, up_to=t)


def completion(schedule, t):
    """Until none is left: l = Waitany(request) ; w_l -= lr * g_l / P."""
    for layer in schedule.channel.as_completed(schedule.net.backward_layers, t):
        schedule.apply(layer, up_to=t)


def all_at_once(schedule, t):
    """Waitall(request) ; for l = L..1: w_l -= lr * g_l / P."""
    sums = [(layer, *found) for layer in schedule.net.backward_layers
            for found in schedule.channel.settle(layer, t, as_sent=True)]
    for layer, step, gradient in sums:
        schedule.optimizer.update(layer, gradient, step)


APPLY = {"lazy": lazy, "ordered": ordered, "completion": completion, "all": all_at_once}


class Layerwise(DelayedUpdates):
    """The same numbers as one-shot (Daily, Vishnu, Siegel: layer-wise): a sum for each layer, with no delay.

        for l = L..1: g_l = backward(l) ; request[l] = Iallreduce(g_l)
        then, by --apply, at once or in the next forward: Wait(request[l]) ; w_l -= lr * g_l / P

    Each sum may be hidden behind the rest of backward and the beginning of the next forward.
    """

    options = (Option("apply", "when updates are made", default="lazy", choices=APPLY),)

    def __init__(self, net, queue, optimizer, apply):
        super().__init__(net, queue, optimizer, Constant(0))
        self.apply_policy = APPLY[apply]

    def step(self, t, batch):
        """Forward settles what is left, backward posts; then whatever the policy applies at once."""
        super().step(t, batch)
        self.apply_policy(self, t)
