"""Synchronous SGD with one collective a layer, overlapped with backward and the next forward."""

from mpilayer.schedules.delayed import Delayed


class Layerwise(Delayed):
    """The same numbers as one-shot (Daily, Vishnu, Siegel: layer-wise): a delay of nothing.

        for l = L..1: g_l = backward(l) ; request[l] = Iallreduce(g_l)
        next step's forward, just before layer l reads w_l: Wait(request[l]) ; w_l -= lr * g_l / P
    """

    def __init__(self, net, queue, optimizer, delay=0):
        super().__init__(net, queue, optimizer, 0)
