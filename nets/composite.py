"""Blocks of blocks: they nest by `yield from`, so that every layer in them is posted as soon as any other."""

import numpy as np


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
        """Last to first; ends where nothing below wants a gradient."""
        for block in reversed(self.blocks):
            dy = yield from block.backward(dy)
            if dy is None:
                return None
        return dy


class Concat:
    """Branches side by side, their channels joined (Szegedy et al. 2015, Inception)."""

    def __init__(self, *blocks):
        self.blocks = blocks

    def build(self, shape):
        """Channels add up."""
        shapes = [block.build(shape) for block in self.blocks]
        self.ends = np.cumsum([s[-1] for s in shapes]).tolist()
        return (*shapes[0][:-1], self.ends[-1])

    def forward(self, x, batch):
        """First to last branch."""
        ys = []
        for block in self.blocks:
            ys.append((yield from block.forward(x, batch)))
        return np.concatenate(ys, axis=-1)

    def backward(self, dy):
        """Last to first branch; their gradients add up."""
        dx = None
        for block, begin, end in reversed([*zip(self.blocks, [0, *self.ends[:-1]], self.ends, strict=True)]):
            more = yield from block.backward(dy[..., begin:end].copy())
            dx = more if dx is None else np.add(dx, more, out=dx)
        return dx


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


class Residual:
    """relu(body(x) + shortcut(x)), He et al. 2016: `body` ends with a ConvNorm, which joins both in its last pass.

    A shortcut of None is x itself.
    """

    def __init__(self, *body, shortcut=None):
        self.body, self.shortcut = body, shortcut
        self.blocks = body if shortcut is None else (shortcut, *body)

    def build(self, shape):
        """Both ways end alike."""
        if self.shortcut is not None:
            self.shortcut.build(shape)
        for block in self.body:
            shape = block.build(shape)
        return shape

    def forward(self, x, batch):
        """The shortcut first, then it waits at the end."""
        short = x if self.shortcut is None else (yield from self.shortcut.forward(x, batch))
        *most, last = self.body
        for block in most:
            x = yield from block.forward(x, batch)
        return (yield from last.forward(x, batch, add=short))

    def backward(self, dy):
        """The last ConvNorm leaves in dy what has passed the rectifier: the shortcut's gradient."""
        dx = dy
        for block in reversed(self.body):
            dx = yield from block.backward(dx)
        short = dy if self.shortcut is None else (yield from self.shortcut.backward(dy))
        return np.add(dx, short, out=dx)


class Skip(Sequence):
    """x + body(x). The body ends with a linear layer, which leaves its dy as it is."""

    def forward(self, x, batch):
        """Beside the body, x waits."""
        y = yield from super().forward(x, batch)
        return np.add(y, x, out=y)

    def backward(self, dy):
        """Both ways."""
        dx = yield from super().backward(dy)
        return np.add(dx, dy, out=dx)
