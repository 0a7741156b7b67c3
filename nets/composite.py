"""Blocks of blocks: they nest by `yield from`, so that every layer in them is posted as soon as any other."""

import numpy as np

import kernels


class Sequence:
    """Blocks one after the other; `shapes` are those that each takes."""

    def __init__(self, *blocks):
        self.blocks = blocks

    def build(self, shape):
        """The shape that the last block makes."""
        self.shapes = []
        for block in self.blocks:
            self.shapes.append(shape)
            shape = block.build(shape)
        return shape

    def forward(self, x, batch):
        """All blocks, the first one first."""
        for block in self.blocks:
            x = yield from block.forward(x, batch)
        return x

    def backward(self, dy):
        """All blocks, the last one first; ends early where nothing below wants a gradient."""
        for block in reversed(self.blocks):
            dy = yield from block.backward(dy)
            if dy is None:
                return None
        return dy


class Concat:
    """Blocks side by side on the same input; their channels are joined (Szegedy et al. 2015, Inception)."""

    def __init__(self, *blocks):
        self.blocks = blocks

    def build(self, shape):
        """The shape of the first branch with the channels of all."""
        shapes = [block.build(shape) for block in self.blocks]
        self.ends = np.cumsum([s[-1] for s in shapes]).tolist()
        return (*shapes[0][:-1], self.ends[-1])

    def forward(self, x, batch):
        """All branches, the first one first."""
        ys = []
        for block in self.blocks:
            ys.append((yield from block.forward(x, batch)))
        return np.concatenate(ys, axis=-1)

    def backward(self, dy):
        """All branches, the last one first; the sum of their gradients by the input."""
        dx = None
        for block, begin, end in reversed([*zip(self.blocks, [0, *self.ends[:-1]], self.ends, strict=True)]):
            more = yield from block.backward(dy[..., begin:end].copy())
            dx = more if dx is None else kernels.add(dx, more, out=dx)
        return dx


class Side(Sequence):
    """An auxiliary classifier: blocks that end in a Loss of their own, used in training only. x passes unchanged."""

    def build(self, shape):
        """The shape stays as it is."""
        super().build(shape)
        return shape

    def forward(self, x, batch):
        """In training the classifier's forward, for its loss; x itself."""
        if batch.training:
            yield from super().forward(x, batch)
        return x

    def backward(self, dy):
        """dy plus the classifier's gradient."""
        return dy + (yield from super().backward(None))


class Residual:
    """relu(body(x) + shortcut(x)), He et al. 2016; without a shortcut relu(body(x) + x).

    The last block of the body is a ConvNorm, which also adds and applies the ReLU, in one pass over memory.
    """

    def __init__(self, *body, shortcut=None):
        self.body, self.shortcut = body, shortcut
        self.blocks = body if shortcut is None else (shortcut, *body)

    def build(self, shape):
        """The shape that the body makes."""
        if self.shortcut is not None:
            self.shortcut.build(shape)
        for block in self.body:
            shape = block.build(shape)
        return shape

    def forward(self, x, batch):
        """The shortcut, then the body, whose last block adds the shortcut's result."""
        short = x if self.shortcut is None else (yield from self.shortcut.forward(x, batch))
        *most, last = self.body
        for block in most:
            x = yield from block.forward(x, batch)
        return (yield from last.forward(x, batch, add=short))

    def backward(self, dy):
        """The body, then the shortcut, whose gradient the last ConvNorm has left in dy; the sum of both."""
        dx = dy
        for block in reversed(self.body):
            dx = yield from block.backward(dx)
        short = dy if self.shortcut is None else (yield from self.shortcut.backward(dy))
        return kernels.add(dx, short, out=dx)


class Skip(Sequence):
    """x + body(x). The last block of the body must leave dy as it is: a Dense without ReLU."""

    def forward(self, x, batch):
        """The body, then the addition of x."""
        y = yield from super().forward(x, batch)
        return kernels.add(y, x, out=y)

    def backward(self, dy):
        """dy plus the body's gradient."""
        dx = yield from super().backward(dy)
        return kernels.add(dx, dy, out=dx)
