"""`synthetic`: images of any shape and number of classes, made up as they are read."""

import math

import numpy as np

from mpilayer.base.cli import Option, count, image_shape
from mpilayer.data.source import Data, Part, Source, integer, require


class _SyntheticImages:
    """Sample i is its class's random pattern, plus a random pattern of its own, plus random pixels.

    A pattern is CELLS x CELLS, enlarged by repetition: 1000 of them are small at any image size. What is a
    sample's own is a window of one random pool, as quick as a copy.
    """

    CELLS = 8
    WINDOWS = 1 << 20
    STRIDE = 0x9E3779B1  # odd: no two of WINDOWS samples share a window

    def __init__(self, seed, shape, classes):
        self.shape, self.grid, self.classes = shape, (self.CELLS, self.CELLS, shape[2]), classes
        self.pixels, self.cells = math.prod(shape), math.prod(self.grid)
        rng = np.random.default_rng(seed)
        scale = np.float32(0.4)  # gives images a variance of about 1
        self.patterns = scale * rng.standard_normal((classes, *self.grid), np.float32)
        self.pool = scale * rng.standard_normal(self.WINDOWS + self.pixels + self.cells, np.float32)

    def labels(self, rows):
        return rows % self.classes

    def __call__(self, rows):
        start = rows * self.STRIDE % self.WINDOWS
        x = self._windows(start, self.pixels).reshape(-1, *self.shape)
        own = self._windows(start + self.pixels, self.cells).reshape(-1, *self.grid)
        down, across = (np.arange(extent) * self.CELLS // extent for extent in self.shape[:2])
        x += (self.patterns[self.labels(rows)] + 2 * own)[:, down[:, None], across]
        return x

    def _windows(self, start, length):
        return np.lib.stride_tricks.sliding_window_view(self.pool, length)[start]


def open_synthetic(*, seed=0, ranks=None, shape=(32, 32, 3), classes=10):
    """Data of any shape (H,W,C) and number of classes: 4096 training and 512 test samples, none stored.

    Sample i, of class i % classes, depends on seed, shape, classes and i alone. Raises DataError.
    """
    seed, classes = integer("synthetic", "seed", seed, 0), integer("synthetic", "classes", classes, 1)
    require(isinstance(shape, tuple | list) and len(shape) == 3, "synthetic",
             f"expected shape (H,W,C), got {shape!r}", "shape=(32, 32, 3)")
    shape = tuple(integer("synthetic", axis, extent, 1) for axis, extent in zip("HWC", shape, strict=True))
    images, rows = _SyntheticImages(seed, shape, classes), np.arange(4096 + 512)
    train, test = (Part(images, part, images.labels(part)) for part in (rows[:4096], rows[4096:]))
    return Data("synthetic", shape, classes, train, test)


SYNTHETIC = Source(
    open_synthetic, "images",
    (Option("shape", "HxWxC of the images (default: the net's)", image_shape),
     Option("classes", "number of classes (default: the net's)", count)),
    like=lambda shape, classes: {"shape": shape, "classes": classes})
