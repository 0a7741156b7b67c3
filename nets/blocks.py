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
from kernels import gpu
from nets.shapes import ShapeError, require


def _nothing():
    """What a block without weights yields."""
    yield from ()


class MaxPool:
    """Max pooling, (H,W,C) to (P,Q,C); P and Q are rounded up as in Caffe, or down if not ceil_mode."""

    def __init__(self, window, stride, padding=0, ceil_mode=True):
        self.window, self.geometry = window, {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}

    def build(self, shape):
        """(H,W,C) to (P,Q,C). Raises ShapeError for another shape, and if no window fits."""
        require("pooling", shape, "H,W,C")
        try:
            return kernels.pool2d_shape((1, *shape), self.window, **self.geometry)[1:]
        except ValueError as error:
            raise ShapeError(error) from None

    def forward(self, x, batch):
        """The maximum of each window; where it was is kept for backward."""
        yield from _nothing()
        y, self.index = kernels.maxpool2d(x, self.window, **self.geometry)
        self.x_shape = x.shape
        return y

    def backward(self, dy):
        """Each dy to the pixel that was the maximum."""
        yield from _nothing()
        return kernels.maxpool2d_backward(dy, self.index, self.x_shape, self.window, **self.geometry)


class AvgPool(MaxPool):
    """Average pooling, (H,W,C) to (P,Q,C); padding counts as zeros, as in Caffe."""

    def forward(self, x, batch):
        """The mean of each window."""
        yield from _nothing()
        self.x_shape = x.shape
        return kernels.avgpool2d(x, self.window, **self.geometry)

    def backward(self, dy):
        """Each dy in equal parts to the pixels of its window."""
        yield from _nothing()
        return kernels.avgpool2d_backward(dy, self.x_shape, self.window, **self.geometry)


class GlobalAvgPool:
    """The mean of all pixels of a channel: (H,W,C) to (C,)."""

    def build(self, shape):
        """(H,W,C) to (C,). Raises ShapeError for another shape."""
        require("pooling", shape, "H,W,C")
        return shape[2:]

    def forward(self, x, batch):
        """The mean of all pixels."""
        yield from _nothing()
        self.x_shape = x.shape
        return kernels.global_avgpool(x)

    def backward(self, dy):
        """Each dy in equal parts to all pixels."""
        yield from _nothing()
        return kernels.global_avgpool_backward(dy, self.x_shape)


class Flatten:
    """(H,W,C) to (H*W*C,)."""

    def build(self, shape):
        """(H,W,C) to (H*W*C,)."""
        return (math.prod(shape),)

    def forward(self, x, batch):
        """The same memory in another shape."""
        yield from _nothing()
        self.x_shape = x.shape
        return x.reshape(x.shape[0], -1)

    def backward(self, dy):
        """The same memory in another shape."""
        yield from _nothing()
        return dy.reshape(self.x_shape)


class Lrn:
    """Local response normalisation across channels, with Krizhevsky et al.'s alpha and beta and Caffe's k."""

    PARAMETERS = (5, 1e-4, 0.75, 1.0)

    def build(self, shape):
        """The shape stays as it is."""
        return shape

    def forward(self, x, batch):
        """Divide each number by a norm of its neighbours across channels."""
        yield from _nothing()
        self.x, self.y = x, kernels.lrn(x, *self.PARAMETERS)
        return self.y

    def backward(self, dy):
        """The gradient by x."""
        yield from _nothing()
        return kernels.lrn_backward(dy, self.x, self.y, *self.PARAMETERS)


class Dropout:
    """Inverted dropout: in training a share `rate` of all numbers becomes 0, the others grow by 1 / (1 - rate).

    Which ones depends on the step, on `name` and on the place in the effective batch, not on the rank.
    """

    def __init__(self, name, rate):
        self.key, self.rate = zlib.crc32(name.encode()), rate

    def build(self, shape):
        """The shape stays as it is."""
        return shape

    def forward(self, x, batch):
        """Drop numbers in training; otherwise x as it is."""
        yield from _nothing()
        if not batch.training:
            return x
        size, key, factor = math.prod(x.shape[1:]), self.key, 0x9E3779B97F4A7C15
        if gpu.is_array(batch.seed):
            seed, first = batch.seed * np.uint64(factor) + np.uint64(key), batch.first * np.uint64(size)
        else:
            seed, first = (batch.seed * factor + key) % 2**64, batch.first * size
        y, self.mask = kernels.dropout(x, self.rate, seed=seed, first=first)
        return y

    def backward(self, dy):
        """dy of the numbers that were kept, scaled as they were."""
        yield from _nothing()
        return kernels.dropout_backward(dy, self.mask, self.rate)


class Gelu:
    """The activation function GELU of Hendrycks and Gimpel 2016."""

    def build(self, shape):
        """The shape stays as it is."""
        return shape

    def forward(self, x, batch):
        """GELU of every number."""
        yield from _nothing()
        self.x = x
        return kernels.gelu(x)

    def backward(self, dy):
        """The gradient by x, written into dy."""
        yield from _nothing()
        return kernels.gelu_backward(dy, self.x, out=dy)


class Attention:
    """Causal self-attention with so many heads: (T,3C), queries, keys and values side by side, to (T,C)."""

    def __init__(self, heads):
        self.heads = heads

    def build(self, shape):
        """(T,3C) to (T,C). Raises ShapeError for another shape, ValueError if the heads do not divide C."""
        require("attention", shape, "T,3C")
        T, C3 = shape
        if C3 % (3 * self.heads):
            raise ValueError(f"a width of {C3 // 3} cannot be shared out among {self.heads} heads")
        self.shape = T, C3 // 3
        return self.shape

    def forward(self, x, batch):
        """Each token attends to itself and to those before it."""
        yield from _nothing()
        self.x = x
        self.y, self.lse = kernels.attention(x, self.heads)
        return self.y

    def backward(self, dy):
        """The gradients by queries, keys and values, side by side as in x."""
        yield from _nothing()
        return kernels.attention_backward(dy, self.x, self.y, self.lse)


class Loss:
    """Softmax cross-entropy, the last block of a net or of an auxiliary classifier.

    weight      factor of this loss in the net's
    smoothing   share of each label that goes to all classes, in training
    logits      its input, after forward
    loss        this rank's part of the mean over the effective batch, after forward; on a GPU an array there
    """

    blocks = ()

    def __init__(self, weight=1.0):
        self.weight, self.smoothing, self.loss = weight, 0.0, 0.0

    def build(self, shape):
        """The shape stays as it is."""
        return shape

    def forward(self, x, batch):
        """Compute the loss and its gradient."""
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
        """The gradient of the loss; `dy` is ignored, since backward begins here."""
        yield from _nothing()
        return self.dlogits
