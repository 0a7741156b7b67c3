"""What a gradient looks like on its way: as it is, or in half the bytes."""

import numpy as np

import kernels


class Float32:
    """The gradient buffer itself travels."""

    def __init__(self, feedback=False):
        pass

    def buffer(self, gradients):
        """What travels instead of `gradients` (n,) float32."""
        return gradients

    def encode(self, gradients, wire, layer):
        """Before the sum, a layer's part of both."""

    def decode(self, wire, gradients):
        """After it."""


class BFloat16:
    """Rounded to bfloat16, added in float32, rounded again; with `feedback`, what the first rounding loses is added to
    the layer's next gradient (Seide et al. 2014, error feedback).
    """

    def __init__(self, feedback=False):
        self.feedback, self.errors = feedback, {}

    def buffer(self, gradients):
        """Half the bytes: (n,) uint16 with bfloat16's bits."""
        return np.zeros(gradients.size, np.uint16)

    def encode(self, gradients, wire, layer):
        """Round."""
        if self.feedback and layer not in self.errors:
            self.errors[layer] = np.zeros_like(gradients)
        kernels.encode_bfloat16(gradients, wire, self.errors.get(layer))

    def decode(self, wire, gradients):
        """Back to float32."""
        kernels.decode_bfloat16(wire, gradients)


WIRES = {"float32": Float32, "bfloat16": BFloat16}
