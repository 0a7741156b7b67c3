"""Blocks without weights. Like layers they have three phases; blocks of blocks (nets/composite.py) nest.

    build(shape) -> shape      shapes without the batch: (H,W,C), (T,C) or (C,); declares parameters
    forward(x, batch) -> y     a generator: yields each layer just before its weights are read
    backward(dy) -> dx         a generator: yields each layer the moment its gradient is final; dy may be overwritten

`batch` has `y` (labels), `size` (samples in the effective batch, over all ranks), `first` (where this rank's samples
begin in it), `seed` (of the step), `training`, and `total`: None, or what sums a float64 array over the ranks. Loss
gradients are divided by `size`, so ranks just add up.
"""

import math
import zlib

import numpy as np

import kernels


def _nothing():
    """What a block without weights yields."""
    yield from ()


class MaxPool:
    """Max pooling, its output size rounded up as in Caffe, or else down."""

    def __init__(self, window, stride, padding=0, ceil_mode=True):
        self.window, self.geometry = window, {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}

    def build(self, shape):
        """The image shrinks."""
        return kernels.pool2d_shape((1, *shape), self.window, **self.geometry)[1:]

    def forward(self, x, batch):
        """Remember where each maximum was."""
        yield from _nothing()
        y, self.index = kernels.maxpool2d(x, self.window, **self.geometry)
        self.x_shape = x.shape
        return y

    def backward(self, dy):
        """Back to where the maxima were."""
        yield from _nothing()
        return kernels.maxpool2d_backward(dy, self.index, self.x_shape, self.window, **self.geometry)


class AvgPool(MaxPool):
    """Average pooling, counted as in Caffe."""

    def forward(self, x, batch):
        """Mean of each window."""
        yield from _nothing()
        self.x_shape = x.shape
        return kernels.avgpool2d(x, self.window, **self.geometry)

    def backward(self, dy):
        """Spread evenly."""
        yield from _nothing()
        return kernels.avgpool2d_backward(dy, self.x_shape, self.window, **self.geometry)


class GlobalAvgPool:
    """(H,W,C) to (C,)."""

    def build(self, shape):
        """Channels remain."""
        return shape[2:]

    def forward(self, x, batch):
        """Mean over all pixels."""
        yield from _nothing()
        self.x_shape = x.shape
        return kernels.global_avgpool(x)

    def backward(self, dy):
        """Spread evenly."""
        yield from _nothing()
        return kernels.global_avgpool_backward(dy, self.x_shape)


class Flatten:
    """(H,W,C) to (H*W*C,)."""

    def build(self, shape):
        """All values in one row."""
        return (math.prod(shape),)

    def forward(self, x, batch):
        """A view."""
        yield from _nothing()
        self.x_shape = x.shape
        return x.reshape(x.shape[0], -1)

    def backward(self, dy):
        """A view."""
        yield from _nothing()
        return dy.reshape(self.x_shape)


class Lrn:
    """Local response normalisation across channels, with Krizhevsky et al.'s alpha and beta and Caffe's k."""

    PARAMETERS = (5, 1e-4, 0.75, 1.0)

    def build(self, shape):
        """Nothing changes."""
        return shape

    def forward(self, x, batch):
        """Normalise."""
        yield from _nothing()
        self.x, self.y = x, kernels.lrn(x, *self.PARAMETERS)
        return self.y

    def backward(self, dy):
        """Gradient by x."""
        yield from _nothing()
        return kernels.lrn_backward(dy, self.x, self.y, *self.PARAMETERS)


class Dropout:
    """Inverted dropout. The mask depends on step, block and place in the effective batch, not on the rank."""

    def __init__(self, name, rate):
        self.key, self.rate = zlib.crc32(name.encode()), rate

    def build(self, shape):
        """Nothing changes."""
        return shape

    def forward(self, x, batch):
        """Nothing outside training."""
        yield from _nothing()
        if not batch.training:
            return x
        seed = (batch.seed * 0x9E3779B97F4A7C15 + self.key) % 2**64
        y, self.mask = kernels.dropout(x, self.rate, seed=seed, first=batch.first * math.prod(x.shape[1:]))
        return y

    def backward(self, dy):
        """The same mask."""
        yield from _nothing()
        return kernels.dropout_backward(dy, self.mask, self.rate)


class Gelu:
    """The smooth rectifier of Hendrycks and Gimpel 2016."""

    def build(self, shape):
        """Nothing changes."""
        return shape

    def forward(self, x, batch):
        """Value by value."""
        yield from _nothing()
        self.x = x
        return kernels.gelu(x)

    def backward(self, dy):
        """In place."""
        yield from _nothing()
        return kernels.gelu_backward(dy, self.x, out=dy)


class Attention:
    """Causal self-attention: (T,3C) queries, keys and values to (T,C)."""

    def __init__(self, heads):
        self.heads = heads

    def build(self, shape):
        """One of three remains."""
        T, C3 = shape
        if C3 % (3 * self.heads):
            raise ValueError(f"a width of {C3 // 3} cannot be shared out among {self.heads} heads")
        return T, C3 // 3

    def forward(self, x, batch):
        """Each token looks at those before it."""
        yield from _nothing()
        self.x = x
        self.y, self.lse = kernels.attention(x, self.heads)
        return self.y

    def backward(self, dy):
        """By queries, keys and values."""
        yield from _nothing()
        return kernels.attention_backward(dy, self.x, self.y, self.lse)


class Loss:
    """Softmax cross-entropy at the end of a head.

    Keeps `logits`, and `loss`: this rank's part of the batch's mean. On the GPU that stays there: nobody waits for it.
    `smoothing` of labels counts in training only.
    """

    blocks = ()

    def __init__(self, weight=1.0):
        self.weight, self.smoothing, self.loss = weight, 0.0, 0.0

    def build(self, shape):
        """Nothing changes."""
        return shape

    def forward(self, x, batch):
        """Loss and its gradient at once."""
        yield from _nothing()
        self.logits = x
        if batch.y is not None:
            logits, share = x.reshape(-1, x.shape[-1]), self.weight * len(x) / (batch.size * batch.y.size)
            smoothing = self.smoothing if batch.training else 0.0
            losses, dlogits = kernels.softmax_cross_entropy(logits, batch.y.reshape(-1), smoothing=smoothing)
            self.loss = share * losses.sum(dtype=np.float64)
            dlogits *= share
            self.dlogits = dlogits.reshape(x.shape)
        return x

    def backward(self, dy):
        """`dy` is ignored: a loss is where gradients begin."""
        yield from _nothing()
        return self.dlogits
