"""Layer-wise sums in halves: reduce-scatter during backward, all-gather during the next forward."""

from mpilayer.schedules.delayed import Delayed


class Split(Delayed):
    """The same numbers as one-shot, with the bits of --reduction ordered (Zhang et al. 2023, DeAR).

        for l = L..1: g_l = backward(l) ; request[l] = Ireduce_scatter(g_l)
        as these complete, for l = 1..L: request[l] = Iallgather(g_l)
        next forward, just before layer l reads w_l: Wait(request[l]) ; w_l -= lr * g_l

    What backward ends with, the next forward needs first: with the second halves in the order of forward, waiting for
    the first layer is waiting for a half. The order is fixed, so that no votes are needed.
    """

    takes = {}
    wires, wires_because = ("float32", "bfloat16"), "halves of a sum are made of the numbers themselves"

    def open(self, **messages):
        """Messages go in halves."""
        super().open(split=True, **messages)
