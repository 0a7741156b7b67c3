"""A net: blocks, and the flat memory of their layers. The two generators are all that a schedule knows of it."""

import hashlib
from typing import NamedTuple

import numpy as np

import kernels
from nets.blocks import Loss
from nets.layer import Layer


class Whole(NamedTuple):
    """All layers as one: one message, one update."""

    name: str
    w: np.ndarray
    g: np.ndarray


LINE = 16  # floats; every layer begins on a cache line


def walk(block):
    """The block and all that it is made of, in forward order."""
    yield block
    for part in getattr(block, "blocks", ()):
        yield from walk(part)


class Net:
    """`layers` in the order in which forward reads them; memory in the order in which backward finishes them.

    `weights` is flat float32, `gradients` a list of such buffers, of which `write_gradients_to` chooses one. `state`
    is flat float64: running statistics of each rank, whose mean over the ranks is what evaluation wants.
    """

    def __init__(self, body, shape, *, seed=0):
        self.body, self.shape = body, tuple(shape)
        self.classes = body.build(self.shape)[-1]
        self.layers = [b for b in walk(body) if isinstance(b, Layer)]
        self.losses = [b for b in walk(body) if isinstance(b, Loss)]
        self.layers[0].input_gradient = False
        self.weights, self.gradients = self._memory(), []
        for layer, piece in self._pieces(self.weights):
            layer.bind_weights(piece)
        for number, layer in enumerate(self.layers):
            layer.initialise(np.random.default_rng([seed, number]))
        self.state = np.zeros(sum(layer.state_size for layer in self.layers))
        ends = np.cumsum([layer.state_size for layer in self.layers])
        for layer, piece in zip(self.layers, np.split(self.state, ends[:-1]), strict=True):
            layer.bind_state(piece)
        self.write_gradients_to(0)

    def example(self, size, rng):
        """(x, y) of the kind this net takes: images of normal numbers and classes, or tokens and the next ones."""
        if len(self.shape) == 3:
            return rng.standard_normal((size, *self.shape), np.float32), rng.integers(0, self.classes, size)
        return tuple(rng.integers(0, self.classes, (2, size, *self.shape)))

    @property
    def backward_layers(self):
        """The layers in the order of `backward` and of memory."""
        return self.layers[::-1]

    @property
    def size(self):
        """Number of parameters."""
        return sum(layer.size for layer in self.layers)

    def _memory(self):
        memory = kernels.empty((sum(-(-layer.size // LINE) * LINE for layer in self.layers),))
        memory[:] = 0
        return memory

    def _pieces(self, flat):
        start = 0
        for layer in self.backward_layers:
            yield layer, flat[start:start + layer.size]
            start += -(-layer.size // LINE) * LINE

    def write_gradients_to(self, slot):
        """Let backward write into buffer `slot`; buffers are made as they are asked for."""
        while len(self.gradients) <= slot:
            self.gradients.append(self._memory())
        for layer, piece in self._pieces(self.gradients[slot]):
            layer.bind_gradient(piece)
        self.whole = Whole("all layers", self.weights, self.gradients[slot])

    def forward(self, batch):
        """Yield each layer just before its weights are read. Then `loss` and `logits` are there."""
        yield from self.body.forward(batch.x, batch)

    def backward(self):
        """Yield each layer the moment its gradient is final."""
        yield from self.body.backward(None)

    @property
    def logits(self):
        """Output of the last forward, (N,classes)."""
        return self.losses[-1].logits

    @property
    def loss(self):
        """This rank's part of the mean loss of the last effective batch; the ranks' parts add up to it."""
        return sum(loss.loss for loss in self.losses)

    def first_not_finite(self):
        """(layer, "weights" or "output") where the last forward went wrong first, or None."""
        for layer in self.layers:
            for what, values in (("weights", layer.w), ("output", getattr(layer, "y", layer.w))):
                if not np.isfinite(values).all():
                    return layer, what
        return None

    def weights_sha256(self):
        """Hash of all weights, layer by layer in forward order."""
        digest = hashlib.sha256()
        for layer in self.layers:
            digest.update(layer.w)
        return digest.hexdigest()
