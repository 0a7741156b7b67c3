"""A layer: the parameters that travel together. Its memory belongs to the net."""

import numpy as np


class Layer:
    """`w` and `g` are flat float32 views of the net's weights and gradients; `parameters` names their parts.

    A block with weights is a Layer. It yields itself before it reads `w`, and again when `g` is final.
    """

    input_gradient = True  # the first layer of a net needs none

    def __init__(self, name):
        self.name, self.shapes, self.fill = name, {}, {}
        self.w = self.g = None

    def declare(self, part, shape, std=0.0, mean=0.0):
        """Announce a parameter and its initial distribution (normal; constant where std is 0)."""
        self.shapes[part], self.fill[part] = tuple(shape), (mean, std)

    @property
    def size(self):
        """Number of parameters."""
        return sum(map(np.prod, self.shapes.values()))

    def _views(self, flat):
        ends = np.cumsum([np.prod(s) for s in self.shapes.values()])[:-1]
        return {part: piece.reshape(shape) for (part, shape), piece in
                zip(self.shapes.items(), np.split(flat, ends), strict=True)}

    def bind_weights(self, flat):
        """Take `flat` (size,) as the weights."""
        self.w, self.weight = flat, self._views(flat)

    def bind_gradient(self, flat):
        """Take `flat` (size,) as the place of the gradient."""
        self.g, self.gradient = flat, self._views(flat)

    def initialise(self, rng):
        """Draw the weights."""
        for part, (mean, std) in self.fill.items():
            self.weight[part][...] = mean + std * rng.standard_normal(self.shapes[part], np.float32)
