"""What every compressor does: what of the gradients travels, and the payload of one gradient buffer."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mpilayer.base.errors import UserError
from mpilayer.mpi.collectives import Calls


class PayloadContext(NamedTuple):
    """What the payloads of all gradient buffers have in common.

    calls, reduction   how messages are summed             layers   {name: layer}, with the shapes of its parameters
    buckets            messages cut from what travels      mirror   mirror(array) is what MPI sums in place of an array
    offsets            {layer: (begin, end)} in the gradient               travel   the same in what travels
    """

    calls: Calls
    reduction: object
    layers: dict
    buckets: list
    offsets: dict
    travel: dict
    mirror: Callable


class Compressor:
    """One entry of COMPRESSORS: its keyword arguments are `options`, and it keeps what has not travelled yet.

    whole           layers must not be cut into pieces      payload     the Payload of a gradient buffer
    own_sums        it sums in its own way, so that --reduction does not apply
    gathers         each rank receives the messages of all ranks
    refused_on_gpu  why it cannot compress what lies on a GPU, or an empty string
    feedback        whether what has not travelled yet is added to the next gradient: `residuals`, of each rank its own
    """

    options, whole, own_sums, gathers, refused_on_gpu = (), True, False, False, ""
    feedback, keeps, keeps_equal = True, ("residuals",), False

    def __init__(self):
        self.residuals = {}

    def check(self, reduction, order):
        """Raise UserError if it cannot be summed in that way."""
        if self.own_sums and reduction != "native":
            raise UserError(f"{type(self).__name__} goes with reduction native: it has sums of its own")
        if order == "split" and not hasattr(self.payload, "halves"):
            raise UserError(f"{type(self).__name__} does not go with order split: it has no halves")

    def residual(self, name, gradient):
        """Of a layer what has not travelled yet: zeros like its gradient, at first."""
        return self.residuals.setdefault(name, np.zeros_like(gradient))

    def open(self, context, gradient):
        """The Payload of the flat gradient buffer."""
        payload = self.payload(self, context, gradient)
        for name in payload.gradient if self.feedback else ():
            payload.residual(name)
        return payload


class Payload:
    """It encodes a layer when its gradient is final, has the Operations that sum a message, and decodes what has
    arrived. MPI sees `context.mirror` of its memory, on a CPU the same memory.

    gradient  {layer: where its gradient is written}, and `sums` {layer: what decode() writes}: views of the flat buffer
    keeps     what holds sums that have arrived, before they are decoded and after it
    lasting   whether the next step depends on that, though nothing is in flight
    """

    keeps, lasting = ("flat",), False

    def __init__(self, compressor, context, gradient):
        self.compressor, self.context, self.flat = compressor, context, gradient
        self.sums = {name: gradient[slice(*ends)] for name, ends in context.offsets.items()}
        self.gradient = dict(self.sums)
        self.prepare()

    def residual(self, name):
        """Of a layer what has not travelled yet."""
        return self.compressor.residual(name, self.gradient[name])

    def places(self):
        """{layer: (n,) uint16} where a layer may write its gradient in bfloat16, as it travels."""
        return {}

    def as_sent(self, name):
        """A layer's sum as it has arrived, float32 or bfloat16's bits; None if only decode() makes sense of it."""
