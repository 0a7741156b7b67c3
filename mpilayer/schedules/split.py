"""Layer-wise sums in halves: reduce-scatter during backward, all-gather during the next forward."""

from mpilayer.schedules.delay_policy import Constant
from mpilayer.schedules.delayed import DelayedUpdates


class Split(DelayedUpdates):
    """The same numbers as one-shot, with the bits of --reduction ordered (Zhang et al. 2023, DeAR).

        for l = L..1: g_l = backward(l) ; request[l] = Ireduce_scatter(g_l)
        as these complete, for l = 1..L: request[l] = Iallgather(g_l)
        next forward, just before layer l reads w_l: Wait(request[l]) ; w_l -= lr * g_l

    What backward ends with, the next forward needs first: with the second halves in the order of forward, waiting for
    the first layer is waiting for a half. The order is fixed, so that no votes are needed.
    """

    wires, wires_because = ("float32", "bfloat16"), "halves of a sum are made of the numbers themselves"
    queue_options = {"order": "split"}

    def __init__(self, net, queue, optimizer):
        super().__init__(net, queue, optimizer, Constant(0))
