"""Blocks without weights of their own. Like layers they have three phases; blocks of blocks nest by `yield from`.

    build(shape) -> shape      shapes without the batch: (H,W,C), or (C,) after Flatten; declares parameters
    forward(x, batch) -> y     a generator: yields each layer just before its weights are read
    backward(dy) -> dx         a generator: yields each layer the moment its gradient is final; dy may be overwritten

`batch` has `y` (labels), `size` (samples in the effective batch, over all ranks), `first` (where this rank's samples
begin in it), `seed` (of the step) and `training`. Loss gradients are divided by `size`, so ranks just add up.
"""

import math
import zlib

import numpy as np

import kernels


def _nothing():
    """What a block without weights yields."""
    yield from ()


class MaxPool:
    """Max pooling, its output size rounded up as in Caffe."""

    def __init__(self, window, stride, padding=0):
        self.window, self.geometry = window, {"stride": stride, "padding": padding, "ceil_mode": True}

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
    """Average pooling, rounded and counted as in Caffe."""

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
        y, self.mask = kernels.dropout(x, self.rate, seed=seed, first=batch.first * x[0].size)
        return y

    def backward(self, dy):
        """The same mask."""
        yield from _nothing()
        return kernels.dropout_backward(dy, self.mask, self.rate)


class Sequence:
    """One after the other."""

    def __init__(self, *blocks):
        self.blocks = blocks

    def build(self, shape):
        """Thread the shape through."""
        for block in self.blocks:
            shape = block.build(shape)
        return shape

    def forward(self, x, batch):
        """First to last."""
        for block in self.blocks:
            x = yield from block.forward(x, batch)
        return x

    def backward(self, dy):
        """Last to first."""
        for block in reversed(self.blocks):
            dy = yield from block.backward(dy)
        return dy


class Concat:
    """Branches side by side, their channels joined (Szegedy et al. 2015, Inception)."""

    def __init__(self, *blocks):
        self.blocks = blocks

    def build(self, shape):
        """Channels add up."""
        shapes = [block.build(shape) for block in self.blocks]
        self.ends = np.cumsum([s[-1] for s in shapes])
        return (*shapes[0][:-1], int(self.ends[-1]))

    def forward(self, x, batch):
        """First to last branch."""
        ys = []
        for block in self.blocks:
            ys.append((yield from block.forward(x, batch)))
        return np.concatenate(ys, axis=-1)

    def backward(self, dy):
        """Last to first branch; their gradients add up."""
        dx = None
        for block, part in zip(reversed(self.blocks), reversed(np.split(dy, self.ends[:-1], -1)), strict=True):
            more = yield from block.backward(np.ascontiguousarray(part))
            dx = more if dx is None else np.add(dx, more, out=dx)
        return dx


class Loss:
    """Softmax cross-entropy at the end of a head. Keeps `logits`, and `loss`: this rank's part of the batch's mean."""

    blocks = ()

    def __init__(self, weight=1.0):
        self.weight, self.loss = weight, 0.0

    def build(self, shape):
        """Nothing changes."""
        return shape

    def forward(self, x, batch):
        """Loss and its gradient at once."""
        yield from _nothing()
        self.logits = x
        if batch.y is not None:
            losses, self.dlogits = kernels.softmax_cross_entropy(x, batch.y)
            self.loss = self.weight * float(losses.sum(dtype=np.float64)) / batch.size
            self.dlogits *= self.weight / batch.size
        return x

    def backward(self, dy):
        """`dy` is ignored: a loss is where gradients begin."""
        yield from _nothing()
        return self.dlogits


class Side(Sequence):
    """A head on the side of the trunk, in training only; its gradient joins the trunk's."""

    def build(self, shape):
        """The trunk goes on as it was."""
        super().build(shape)
        return shape

    def forward(self, x, batch):
        """The head's output goes nowhere; its loss counts."""
        if batch.training:
            yield from super().forward(x, batch)
        return x

    def backward(self, dy):
        """The head's gradient and the trunk's."""
        return dy + (yield from super().backward(None))
