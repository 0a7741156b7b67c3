"""What all data sources have in common: Source, how one is opened, and Data, what that returns."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from kernels import compiled
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


def samples_of(shape):
    """What samples of a shape are: images (H,W,C), or tokens (T,); None of None."""
    return {3: "images", 1: "tokens"}.get(len(shape or ()))


class Source(NamedTuple):
    """A data source as open_data and --data offer it.

    open      open(seed=, ranks=, **options) returns Data, or raises DataError; a path comes before these if the
              source's name has one
    samples   images or tokens; None: not known before it is open
    options   Options that are keyword arguments of `open`; one that is None is left out
    like      like(shape, classes) returns options for samples such as a net is made for; each may be None: any will do
    """

    open: Callable
    samples: str | None = None
    options: tuple = ()
    like: Callable = lambda shape, classes: {}

    def at(self, path):
        """The source of what is at that path."""
        return self._replace(open=partial(self.open, path))

    def defaults(self, like=None):
        """{option: value} of those that nobody asked for; `like`: (shape, classes) that a net is made for."""
        fits = like and samples_of(like[0]) in (self.samples, None)
        own, nets = ((option.name, option.default) for option in self.options), self.like(*like) if fits else {}
        return {name: value for name, value in (*own, *nets.items()) if value is not None}


@dataclass(frozen=True)
class Data:
    """A training and a test part: samples of one `shape`, labels 0..classes-1. Closes in `with`.

    name      for messages
    shape     (H,W,C) of images with one label each, or (T,) of tokens, each with the next one as its label
    train, test   Parts, or of tokens whatever has len() and read(indices, epoch)
    closing   functions of no arguments that close() calls
    holding   functions of mpilayer.Ranks, or None, that held() calls: each takes samples into memory, once on a node
    remarks   what is odd about the samples, in words

    Raises DataError if the parts do not fit shape and classes.
    """

    name: str
    shape: tuple[int, ...]
    classes: int
    train: "Part"
    test: "Part"
    closing: tuple[Callable, ...] = ()
    holding: tuple[Callable, ...] = ()
    remarks: tuple[str, ...] = ()

    def __post_init__(self):
        good = isinstance(self.shape, tuple) and samples_of(self.shape) is not None
        require(good, self.name, f"expected shape (H,W,C) or (T,), got {self.shape!r}", "shape=(32, 32, 3)")
        for size in self.shape:
            integer(self.name, "each size of the shape", size, 1)
        integer(self.name, "classes", self.classes, 1)
        for name, part in (("train", self.train), ("test", self.test)):
            self._check(f"{self.name} | {name}", part)

    def _check(self, where, part):
        """Raise DataError unless it has samples, and labels below `classes`."""
        require(len(part), where, "expected at least one sample, got none", "another division of the samples")
        if len(self.shape) == 3:
            require(isinstance(part, Part), where, f"expected a Part, got {type(part).__name__}", "in_memory(x, y)")
            low, high = part.labels.min(), part.labels.max()
            require(low >= 0 and high < self.classes, where,
                    f"expected labels in 0..{self.classes - 1}, got {low}..{high}",
                    "counting classes from 0, or more of them")

    def held(self, ranks):
        """This, with samples in memory as far as it is made for that; all ranks call it together. Raises UserError."""
        for hold in self.holding:
            hold(ranks)
        return replace(self, holding=())

    def close(self):
        """Give back what is open, such as a file."""
        for close in self.closing:
            close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@compiled.kernel()
def _look_up(x, table, out):
    pixels, channels = x.shape
    for i in range(pixels):
        for c in range(channels):
            out[i, c] = table[x[i, c], c]


BYTES = np.arange(256, dtype=np.uint8)[:, None]


class Scaled:
    """The view of images of bytes that makes numbers of a table of them: float32 (256,C), or (256,1) for any C."""

    def __init__(self, table):
        self.table = table

    def __call__(self, x, rows, epoch):
        """float32 (n,H,W,C) of uint8 x (n,H,W,C)."""
        out, pixels = np.empty(x.shape, np.float32), (-1, x.shape[3])
        table = np.broadcast_to(self.table, (256, x.shape[3]))
        _look_up(np.ascontiguousarray(x).reshape(pixels), np.ascontiguousarray(table), out.reshape(pixels))
        return out


_SCALED = Scaled(BYTES / np.float32(127.5) - np.float32(1))


def plain(x, rows, epoch):
    """The view of images that makes float32 of them: a byte v becomes v / 127.5 - 1."""
    return _SCALED(x, rows, epoch) if x.dtype == np.uint8 else x


class Part:
    """Images with one label each: sample i is image `rows[i]`, of class `labels[i]`.

    images   images(rows) returns images (n,H,W,C), uint8 or float32, by their numbers (n,)
    rows, labels   int64 (N,)
    view     view(images, rows, epoch) returns what a net gets, float32; the epoch is None where nothing may be random
    """

    def __init__(self, images, rows, labels, view=plain):
        self.images, self.rows, self.labels, self.view = images, rows, labels, view

    def __len__(self):
        return len(self.rows)

    def read(self, indices, epoch=None):
        """x (n,H,W,C) float32 and y (n,) int64 of the samples `indices` (n,), in that order; an index may repeat.

        Reads no other sample. `epoch`, an integer, makes augmentation random; None: as in evaluation. Raises DataError
        for an index outside 0..len-1, for a sample that cannot be read, and for stored float32 images that are not
        finite.
        """
        indices = checked(indices, len(self))
        rows = self.rows[indices]
        return self.view(self.images(rows), rows, epoch), self.labels[indices]

    def expect(self, indices):
        """These samples will be read soon, if that is of use to what keeps them."""
        if hasattr(self.images, "expect"):
            self.images.expect(self.rows[indices])

    def subset(self, indices):
        """The Part of the samples `indices` (n,)."""
        return Part(self.images, self.rows[indices], self.labels[indices], self.view)


def in_memory(images, labels):
    """The Part of arrays: images (N,H,W,C), uint8 or float32, with integer labels (N,). Raises DataError."""
    x, y = np.asarray(images), np.asarray(labels)
    check_pair(x, y, "", ("images", "labels"))
    return Part(lambda rows: x[rows], np.arange(len(y)), y.astype(np.int64))


def check_pair(x, y, place, names):
    """Raise DataError unless x is uint8 or float32 (N,H,W,C), y integer (N,), and N positive.

    x and y are arrays or HDF5 datasets; place + their names is where the error is.
    """
    x_where, y_where = (f"{place}{name}" for name in names)
    got = f"got {x.dtype} {x.shape}"
    require(x.dtype.str[1:] in ("u1", "f4") and len(x.shape or ()) == 4, x_where,
            f"expected uint8 or float32 (N,H,W,C), {got}", "x[..., None] if C is missing, or astype")
    require(x.size, x_where, f"expected at least one sample, {got}", "writing the file again")
    require(y.dtype.kind in "iu" and y.shape == x.shape[:1], y_where,
            f"expected integer ({len(x)},), got {y.dtype} {y.shape}", f"a label for each sample of {names[0]}")


def checked(indices, count):
    """The indices as an array (n,) of integers in 0..count-1. Raises DataError."""
    try:
        indices = np.asarray(indices)
    except ValueError as wrong:
        raise error("read", f"expected indices (n,): {wrong}", "a row of batches(...)") from wrong
    if indices.shape == (0,):  # a rank's share may be empty, and NumPy makes floats of an empty list
        return indices.astype(np.int64)
    require(indices.ndim == 1 and indices.dtype.kind in "iu", "read",
            f"expected integers (n,), got {indices.dtype} {indices.shape}", "a row of batches(...)")
    outside = indices[(indices < 0) | (indices >= count)]
    require(not outside.size, "read",
            f"expected 0..{count - 1}, got {outside[:3].tolist()}", "a row of batches(...)")
    return indices


def held_out(data, share):
    """The data with this share of the training samples, evenly spread, as its test part. Raises DataError."""
    good = isinstance(share, int | float) and 0 <= share <= 1
    require(good, data.name, f"expected a share of samples, 0 to less than 1, got {share!r}", "another --validation")
    if not share:
        return data
    count = len(data.train)
    out = np.diff(np.floor(np.arange(count + 1) * share)) > 0
    require(0 < out.sum() < count, data.name, f"expected some samples on both sides, got {share} of {count}",
            "another --validation")
    parts = (data.train.subset(np.flatnonzero(chosen)) for chosen in (~out, out))
    return replace(data, **dict(zip(("train", "test"), parts, strict=True)))
