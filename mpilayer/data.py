"""Where samples come from, which of them make a step, and which of those are a rank's.

`open_data` opens the embedded digits, the synthetic source or an HDF5 file; `batches` and `share` divide it.
"""

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from mpilayer.errors import UserError

# Up to here images are kept in memory: an HDF5 call for each batch costs more than so little data.
RESIDENT_BYTES = 16 << 20


class DataError(UserError, ValueError):
    """Data, or a request for some, that cannot be used: `where | expected ..., got ... | try: ...`."""


def _error(where, wrong, remedy):
    return DataError(f"{where} | {wrong} | try: {remedy}")


def _require(condition, where, wrong, remedy):
    if not condition:
        raise _error(where, wrong, remedy)


def _integer(where, name, value, least):
    good = isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least
    _require(good, where, f"expected {name} to be an integer >= {least}, got {value!r}", f"{name}={least}")
    return int(value)


@dataclass(frozen=True)
class Data:
    """A training and a test part: samples of one `shape` (H,W,C), labels 0..classes-1. Closes in `with`."""

    name: str
    shape: tuple[int, int, int]
    classes: int
    train: "Part"
    test: "Part"
    file: h5py.File | None = None

    def close(self):
        """Close the file behind the data, if there is one."""
        if self.file is not None:
            self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Part:
    """Labelled samples: i is image `rows[i]`, of class `labels[i]`; `images(rows)` is float32 (n,H,W,C)."""

    def __init__(self, images, rows, labels):
        self.images, self.rows, self.labels = images, rows, labels

    def __len__(self):
        return len(self.rows)

    def read(self, indices):
        """x (n,H,W,C) float32 and y (n,) int64 of the samples `indices` (n,), in their order; may repeat.

        Reads no other sample. Raises DataError for an index outside 0..len-1, for a sample that cannot be
        read, and for float32 images that are not finite.
        """
        indices = self._checked(indices)
        return self.images(self.rows[indices]), self.labels[indices]

    def _checked(self, indices):
        try:
            indices = np.asarray(indices)
        except ValueError as error:
            raise _error("read", f"expected indices (n,): {error}", "a row of batches(...)") from error
        if indices.shape == (0,):  # a rank's share may be empty, and an empty list counts as float
            return indices.astype(np.int64)
        _require(indices.ndim == 1 and indices.dtype.kind in "iu", "read",
                 f"expected integers (n,), got {indices.dtype} {indices.shape}", "a row of batches(...)")
        outside = indices[(indices < 0) | (indices >= len(self))]
        _require(not outside.size, "read",
                 f"expected 0..{len(self) - 1}, got {outside[:3].tolist()}", "a row of batches(...)")
        return indices


# HDF5 files


@contextmanager
def _reading(path, key):
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # which one h5py raises for a damaged file depends on the byte that is wrong
        raise _error(f"{path} | {key}", f"cannot be read: {error}",
                     "opening it again; if that fails as well, writing the file again") from error


class _StoredImages:
    """float32 images by row of an HDF5 dataset, or of its copy in memory."""

    def __init__(self, path, key, dataset):
        self.path, self.key, self.values = path, key, dataset
        if dataset.nbytes <= RESIDENT_BYTES:
            with _reading(path, key):
                self.values = dataset[:]

    def __call__(self, rows):
        unique, back = np.unique(rows, return_inverse=True)  # HDF5 selects in increasing order only
        with _reading(self.path, self.key):
            x = self.values[unique]
        if x.dtype == np.uint8:
            return x[back] / np.float32(127.5) - np.float32(1)
        bad = unique[~np.isfinite(x).all(axis=(1, 2, 3))]
        _require(not bad.size, f"{self.path} | {self.key}",
                 f"expected finite values, got NaN or infinity in samples {bad[:3].tolist()}", "without them")
        return x[back].astype(np.float32, copy=False)  # a file may be big-endian


def open_file(path):
    """Data of an HDF5 file: `x` (N,H,W,C) uint8 or float32, `y` (N,) integer, perhaps `x_test` and `y_test`.

    Without those, every tenth sample (index % 10 == 9) is the test part. The file's integer attribute
    `classes` is the number of classes, by default the largest label + 1. A uint8 v is read as v / 127.5 - 1,
    a float32 as it is. Raises DataError for any other content, and later if a sample cannot be read.
    """
    file = _open_hdf5(path)
    try:
        with _reading(path, "file"):
            return _describe(path, file)
    except DataError:
        file.close()
        raise


def _open_hdf5(path):
    _require(os.path.exists(path), path, "no such file", "another path, digits or synthetic")
    _require(os.path.isfile(path), path, "expected a file, got a directory or device", "a file inside it")
    with _reading(path, "file"):
        os.close(os.open(path, os.O_RDONLY))  # says plainly if permission is denied
        size, known = os.path.getsize(path), h5py.is_hdf5(path)
    _require(size, path, "the file is empty", "writing it again")
    _require(known, path, "expected an HDF5 file, got another format", "writing it as docs/data.md says")
    with _reading(path, "damaged or cut short"):
        return h5py.File(path, "r", locking="best-effort")  # every rank opens it at the same time


def _describe(path, file):
    unknown = 1 << 31  # above any label
    most = _integer(f"{path} | attribute", "classes", file.attrs.get("classes", unknown), 1)
    images, labels = _pair(path, file, "x", "y", most)
    if "x_test" in file or "y_test" in file:
        pairs = (images, labels), _pair(path, file, "x_test", "y_test", most)
        train, test = (Part(images, np.arange(len(labels)), labels) for images, labels in pairs)
    else:
        train, test = _split(path, images, labels)
    shape, other = (part.images.values.shape[1:] for part in (train, test))
    _require(shape == other, f"{path} | x_test", f"expected {shape} as in x, got {other}", "one shape")
    classes = most if most != unknown else 1 + int(max(train.labels.max(), test.labels.max()))
    return Data(path, shape, classes, train, test, file)


def _pair(path, file, x_key, y_key, classes):
    x, y = (_dataset(path, file, key) for key in (x_key, y_key))
    got = f"got {x.dtype} {x.shape}"
    _require(x.dtype.str[1:] in ("u1", "f4") and len(x.shape or ()) == 4, f"{path} | {x_key}",
             f"expected uint8 or float32 (N,H,W,C), {got}", "x[..., None] if C is missing, or astype")
    _require(x.size, f"{path} | {x_key}", f"expected at least one sample, {got}", "writing the file again")
    _require(y.dtype.kind in "iu" and y.shape == x.shape[:1], f"{path} | {y_key}",
             f"expected integer ({len(x)},), got {y.dtype} {y.shape}", f"a label for each sample of {x_key}")
    with _reading(path, y_key):
        labels = y[:].astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))[:3]
    _require(not wrong.size, f"{path} | {y_key}",
             f"expected labels in 0..{classes - 1}, got {labels[wrong].tolist()} at {wrong.tolist()}",
             "counting classes from 0, or a larger attribute classes")
    return _StoredImages(path, x_key, x), labels


def _dataset(path, file, key):
    value, there = file.get(key), ", ".join(file) or "nothing"
    _require(isinstance(value, h5py.Dataset), f"{path} | {key}",
             f"expected a dataset {key}, the file has {there}", "writing it as docs/data.md says")
    return value


def _split(path, images, labels):
    _require(len(labels) >= 10, f"{path} | x", f"expected at least 10 samples to split, got {len(labels)}",
             "adding x_test and y_test")
    tenth = np.arange(len(labels)) % 10 == 9
    return (Part(images, np.flatnonzero(part), labels[part]) for part in (~tenth, tenth))


# The synthetic source


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


def open_synthetic(seed=0, shape=(32, 32, 3), classes=10):
    """Data of any shape (H,W,C) and number of classes: 4096 training and 512 test samples, none stored.

    Sample i, of class i % classes, depends on seed, shape, classes and i alone. Raises DataError.
    """
    seed, classes = _integer("synthetic", "seed", seed, 0), _integer("synthetic", "classes", classes, 1)
    _require(isinstance(shape, tuple | list) and len(shape) == 3, "synthetic",
             f"expected shape (H,W,C), got {shape!r}", "shape=(32, 32, 3)")
    shape = tuple(_integer("synthetic", axis, extent, 1) for axis, extent in zip("HWC", shape, strict=True))
    images, rows = _SyntheticImages(seed, shape, classes), np.arange(4096 + 512)
    train, test = (Part(images, part, images.labels(part)) for part in (rows[:4096], rows[4096:]))
    return Data("synthetic", shape, classes, train, test)


def open_digits(seed=0):
    """The embedded digits, whatever the seed: 1437 training and 360 test samples (8,8,1) of 10 classes."""
    return replace(open_file(str(Path(__file__).with_name("digits.h5"))), name="digits")


SOURCES = {"digits": open_digits, "synthetic": open_synthetic}


def open_data(source="digits", *, seed=0, shape=None, classes=None):
    """Data of `source`: "digits", "synthetic" or the path of an HDF5 file.

    `seed`, `shape` (H,W,C) and `classes` define the synthetic source; stored data has a form of its own.
    Raises DataError for an unknown source, a form given for stored data, and data that cannot be used.
    """
    _require(isinstance(source, str | os.PathLike), "data", f"expected a name, got {source!r}", "'digits'")
    name = os.fsdecode(source)
    known = name in SOURCES or name.lower().endswith((".h5", ".hdf5")) or os.path.exists(name)
    _require(known, name, "unknown source", f"{', '.join(SOURCES)} or FILE.h5")
    form = {key: value for key, value in {"shape": shape, "classes": classes}.items() if value is not None}
    _require(name == "synthetic" or not form, name,
             f"expected no {' or '.join(form)}: stored data has its own", "leaving it out, or synthetic")
    return SOURCES[name](seed, **form) if name in SOURCES else open_file(name)


def batches(n, size, *, seed, epoch):
    """The epoch's effective batches: (n // size, size) int64, indices of `n` samples, none of them twice.

    They depend on the four arguments alone, never on the number of ranks. What remains after whole batches
    sits out, and differs from epoch to epoch. Raises DataError if `size` exceeds `n`.
    """
    n, size = _integer("batches", "n", n, 1), _integer("batches", "size", size, 1)
    seed, epoch = _integer("batches", "seed", seed, 0), _integer("batches", "epoch", epoch, 0)
    _require(size <= n, "batches", f"expected a batch of at most {n}, the number of samples, got {size}",
             "a smaller batch or more data")
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return order[:n - n % size].reshape(-1, size)


def share(size, rank, ranks):
    """The slice of an effective batch that is `rank`'s: contiguous, equal within one, perhaps empty."""
    size, ranks = _integer("share", "size", size, 0), _integer("share", "ranks", ranks, 1)
    rank = _integer("share", "rank", rank, 0)
    _require(rank < ranks, "share", f"expected rank in 0..{ranks - 1}, got {rank}", "comm.rank")
    return slice(size * rank // ranks, size * (rank + 1) // ranks)
