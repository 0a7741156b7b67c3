"""What every source of samples is: two parts, each read by index; and how its errors read."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mpilayer.base.errors import UserError


class DataError(UserError, ValueError):
    """Data, or a request for some, that cannot be used: `where | expected ..., got ... | try: ...`."""


def error(where, wrong, remedy):
    """A DataError."""
    return DataError(f"{where} | {wrong} | try: {remedy}")


def require(condition, where, wrong, remedy):
    """Raise DataError unless the condition holds."""
    if not condition:
        raise error(where, wrong, remedy)


def integer(where, name, value, least):
    """The value as an int. Raises DataError for what is none, or too small."""
    good = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least
    require(good, where, f"expected {name} to be an integer >= {least}, got {value!r}", f"{name}={least}")
    return int(value)


@dataclass(frozen=True)
class Data:
    """Samples of one shape in a training and a test part; `with data:` closes it.

    name      of the source, for messages
    shape     (H,W,C) of images, which have one label each; or (T,) of tokens, whose labels are the next tokens
    classes   labels are 0..classes-1
    train     the training part: len(train) samples, read by train.read(indices, epoch)
    test      the test part, likewise
    closing   functions that close() calls
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    train: "Part"
    test: "Part"
    closing: tuple[Callable, ...] = ()

    def close(self):
        """Close what is open: a file, memory that a node's ranks share. All ranks of a node call this, or none."""
        for close in self.closing:
            close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def plain(x, rows, epoch):
    """Images as nets want them, float32: a byte v is v / 127.5 - 1."""
    return x / np.float32(127.5) - np.float32(1) if x.dtype == np.uint8 else x


class Part:
    """Labelled images: i is image `rows[i]`, of class `labels[i]`; `images(rows)` is (n,H,W,C), uint8 or float32.

    view(x, rows, epoch) is what is read of them, float32; the epoch is None where nothing is to be random.
    """

    def __init__(self, images, rows, labels, view=plain):
        self.images, self.rows, self.labels, self.view = images, rows, labels, view

    def __len__(self):
        return len(self.rows)

    def read(self, indices, epoch=None):
        """x (n,H,W,C) float32 and y (n,) int64 of the samples `indices` (n,), in their order; may repeat.

        Reads no other sample. Raises DataError for an index outside 0..len-1, for a sample that cannot be
        read, and for float32 images that are not finite.
        """
        indices = checked(indices, len(self))
        rows = self.rows[indices]
        return self.view(self.images(rows), rows, epoch), self.labels[indices]

    def subset(self, indices):
        """The part of these samples."""
        return Part(self.images, self.rows[indices], self.labels[indices], self.view)


def checked(indices, count):
    """The indices as an array (n,) of integers in 0..count-1. Raises DataError."""
    try:
        indices = np.asarray(indices)
    except ValueError as wrong:
        raise error("read", f"expected indices (n,): {wrong}", "a row of batches(...)") from wrong
    if indices.shape == (0,):  # a rank's share may be empty, and an empty list counts as float
        return indices.astype(np.int64)
    require(indices.ndim == 1 and indices.dtype.kind in "iu", "read",
            f"expected integers (n,), got {indices.dtype} {indices.shape}", "a row of batches(...)")
    outside = indices[(indices < 0) | (indices >= count)]
    require(not outside.size, "read",
            f"expected 0..{count - 1}, got {outside[:3].tolist()}", "a row of batches(...)")
    return indices


def held_out(data, share):
    """The data with this share of the training samples, evenly spread, in place of the test part."""
    if not share:
        return data
    count = len(data.train)
    out = np.diff(np.floor(np.arange(count + 1) * share)) > 0
    require(0 < out.sum() < count, data.name, f"expected some samples on both sides, got {share} of {count}",
            "another --validation")
    parts = (data.train.subset(np.flatnonzero(chosen)) for chosen in (~out, out))
    return replace(data, **dict(zip(("train", "test"), parts, strict=True)))
