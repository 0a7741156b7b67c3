"""`FILE.h5`: images in an HDF5 file."""

import os
from contextlib import contextmanager

import h5py
import numpy as np

from mpilayer.data.augment import WINDOW
from mpilayer.data.node_shared import hold
from mpilayer.data.source import (
    BYTES,
    Data,
    DataError,
    Part,
    Scaled,
    Source,
    check_pair,
    error,
    integer,
    plain,
    require,
)

REMEDY = "writing it as docs/data.md says"
IDENTITY = "bytes", "time of change", "number of the file"  # of _identity
SAMPLED = 64  # images that are looked at for their range
USUAL = 1e-3, 1e3  # deviations of images that nets can learn from
SUFFIXES = ".h5", ".hdf5"
RESIDENT_BYTES = 64 << 20  # up to here an HDF5 call for each batch costs more than the memory


@contextmanager
def _reading(path, key):
    try:
        yield
    except DataError:
        raise
    except Exception as wrong:  # which one h5py raises for a damaged file depends on the byte that is wrong
        raise error(f"{path} | {key}", f"cannot be read: {wrong}",
                     "opening it again; if that fails as well, writing the file again") from wrong


def _identity(path):
    """What changes when the file at a path is changed or replaced."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino


class Places:
    """Where in its file each row of an HDF5 dataset lies.

    descriptor   of the file      size   bytes of a row      raw   whether they are there as they are
    """

    def __init__(self, values):
        self.values, self.size = values.id, values.dtype.itemsize * int(np.prod(values.shape[1:]))
        self.descriptor = values.file.id.get_vfd_handle()
        self.begin, self.chunked = self.values.get_offset(), values.chunks == (1, *values.shape[1:])
        filters = values.id.get_create_plist().get_nfilters()
        self.raw = not filters and (self.begin is not None or self.chunked)

    def of(self, row):
        """The first byte of a row, or None."""
        if self.begin is not None:
            return self.begin + int(row) * self.size
        return self.values.get_chunk_info_by_coord((int(row), 0, 0, 0)).byte_offset if self.chunked else None


class _StoredImages:
    """Images by row of an HDF5 dataset, or of `values` in memory. Raises DataError if the file changes meanwhile."""

    def __init__(self, path, key, values):
        self.path, self.key, self.values, self.known = path, key, values, _identity(path)
        self.places = Places(values)

    def hold(self, ranks):
        """Keep them in memory, if they are few and there is room for them."""
        if self.values.nbytes <= RESIDENT_BYTES:
            values = hold(self._load, ranks)
            self.values = self.values if values is None else values

    def expect(self, rows):
        """These rows will be read soon: the system may begin to. Nothing is waited for."""
        if isinstance(self.values, h5py.Dataset):
            for offset in filter(None, map(self.places.of, rows)):
                os.posix_fadvise(self.places.descriptor, offset, self.places.size, os.POSIX_FADV_WILLNEED)

    def _rows(self, rows):
        """The images of these rows, which increase; past HDF5 where they lie in the file as they are."""
        if isinstance(self.values, np.ndarray) or not self.places.raw:
            return self.values[rows]
        x = np.empty((len(rows), *self.values.shape[1:]), self.values.dtype)
        for image, row in zip(x, rows, strict=True):
            if os.preadv(self.places.descriptor, [image], self.places.of(row)) < image.nbytes:
                self._check_unchanged()
                raise error(f"{self.path} | {self.key}", f"sample {row} is not in the file", REMEDY)
        return x

    def _check_unchanged(self):
        """HDF5 gives zeros where a file has lost its end."""
        now = _identity(self.path)
        differing = [f"{name} {a} -> {b}" for name, a, b in zip(IDENTITY, self.known, now, strict=True) if a != b]
        require(not differing, self.path, f"the file has changed since it was opened: {', '.join(differing)}",
                "training again, with a file that stays as it is")

    def _load(self):
        with _reading(self.path, self.key):
            return self.values[:]

    def __call__(self, rows):
        unique, back = np.unique(rows, return_inverse=True)  # HDF5 selects in increasing order only
        with _reading(self.path, self.key):
            x = self._rows(unique)
            if isinstance(self.values, h5py.Dataset):
                self._check_unchanged()
        if x.dtype == np.uint8:
            return x[back]
        bad = unique[~np.isfinite(x).all(axis=(1, 2, 3))]
        require(not bad.size, f"{self.path} | {self.key}",
                f"expected finite values, got NaN or infinity in samples {bad[:3].tolist()}", "without them")
        return x[back].astype(np.float32, copy=False)  # a file may be big-endian




def open_file(path, *, seed=0, ranks=None):
    """Data of an HDF5 file, the same for every seed: `x` (N,H,W,C) uint8 or float32, `y` (N,) integer, perhaps
    `x_test` and `y_test`.

    Without those, every tenth sample (index % 10 == 9) is the test part. The file's integer attribute
    `classes` is the number of classes, by default the largest label + 1. A uint8 v is read as v / 127.5 - 1, or with
    the attributes `mean` and `std` (C,) as (v - mean) / std; a float32 as it is. Images of up to RESIDENT_BYTES are
    held in memory. Raises DataError for any other content, and later
    if a sample cannot be read.
    """
    file = _open_hdf5(path)
    try:
        with _reading(path, "file"):
            return _describe(path, file)
    except DataError:
        file.close()
        raise


def _open_hdf5(path):
    require(os.path.exists(path), path, "no such file", "another path, digits or synthetic")
    require(os.path.isfile(path), path, "expected a file, got a directory or device", "a file inside it")
    with _reading(path, "file"):
        os.close(os.open(path, os.O_RDONLY))  # says plainly if permission is denied
        size, known = os.path.getsize(path), h5py.is_hdf5(path)
    require(size, path, "the file is empty", "writing it again")
    require(known, path, "expected an HDF5 file, got another format", "writing it as docs/data.md says")
    with _reading(path, "damaged or cut short"):
        return h5py.File(path, "r", locking="best-effort")  # every rank opens it at the same time


def _describe(path, file):
    unknown = 1 << 31  # above any label
    most = integer(f"{path} | attribute", "classes", file.attrs.get("classes", unknown), 1)
    images, labels = _pair(path, file, "x", "y", most)
    if "x_test" in file or "y_test" in file:
        pairs = (images, labels), _pair(path, file, "x_test", "y_test", most)
        shape, other = (images.values.shape[1:] for images, _ in pairs)
        require(shape == other, f"{path} | x_test", f"expected {shape} as in x, got {other}", "one shape")
        train, test = (Part(images, np.arange(len(labels)), labels) for images, labels in pairs)
        stored = [images for images, _ in pairs]
    else:
        train, test = _split(path, images, labels)
        stored = [images]
    view = _normalized(path, file, images.values)
    train.view = test.view = view
    classes = most if most != unknown else _classes(path, np.concatenate([train.labels, test.labels]))
    return Data(path, images.values.shape[1:], classes, train, test, (file.close,),
                tuple(each.hold for each in stored), _remarks(path, train))


def _classes(path, labels):
    """How many there are if nobody says so: one stray label must not make a million."""
    most = int(labels.max())
    require(most < len(labels), f"{path} | y", f"expected labels below {len(labels)}, as many as samples, got {most}",
            "correcting it, or an attribute classes if there are so many")
    return 1 + most


def _remarks(path, part):
    """What is odd about the range of float images, as far as some of them show it."""
    if part.images.values.dtype == np.uint8:
        return ()
    x = part.images.values[part.rows[np.unique(np.linspace(0, len(part) - 1, SAMPLED).astype(np.int64))]]
    x = x[np.isfinite(x)]  # that others are not is said when they are read
    mean, deviation = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    if USUAL[0] <= deviation <= USUAL[1] and abs(mean) <= USUAL[1]:
        return ()
    return (f"{path}: images with mean {mean:.3g} and deviation {deviation:.3g}, from which nets hardly learn"
            " | expected about 0 and 1 | try: scaling them",)


def _normalized(path, file, images):
    """The view that the file's attributes ask for."""
    if "mean" not in file.attrs and "std" not in file.attrs:
        return plain
    values = [np.asarray(file.attrs.get(name)) for name in ("mean", "std")]
    good = all(v.dtype.kind == "f" and v.shape == images.shape[3:] and np.isfinite(v).all() for v in values)
    require(good and (values[1] > 0).all() and images.dtype == np.uint8, f"{path} | attributes mean and std",
            f"expected {images.shape[3]} floats each, std positive, and images of bytes, got {values}",
            "writing both or neither")
    mean, std = map(np.float32, values)
    return Scaled((BYTES - mean) / std)


def _pair(path, file, x_key, y_key, classes):
    x, y = (_dataset(path, file, key) for key in (x_key, y_key))
    check_pair(x, y, f"{path} | ", (x_key, y_key))
    with _reading(path, y_key):
        labels = y[:].astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))[:3]
    require(not wrong.size, f"{path} | {y_key}",
             f"expected labels in 0..{classes - 1}, got {labels[wrong].tolist()} at {wrong.tolist()}",
             "counting classes from 0, or a larger attribute classes")
    return _StoredImages(path, x_key, x), labels


def _dataset(path, file, key):
    there, where = ", ".join(file) or "nothing", f"{path} | {key}"
    require(key in set(file), where, f"expected a dataset {key}, the file has {there}", REMEDY)
    own = isinstance(file.get(key, getlink=True), h5py.HardLink)
    require(own, where, f"expected a dataset {key}, got a link, which may lead to another file", "copying it")
    value = file.get(key)
    require(isinstance(value, h5py.Dataset), where, f"expected a dataset {key}, got a {type(value).__name__}", REMEDY)
    require(not (value.external or value.is_virtual), where, "expected values in this file, they are in others",
            "copying them")
    return value


def _split(path, images, labels):
    require(len(labels) >= 10, f"{path} | x", f"expected at least 10 samples to split, got {len(labels)}",
             "adding x_test and y_test")
    tenth = np.arange(len(labels)) % 10 == 9
    return (Part(images, np.flatnonzero(part), labels[part]) for part in (~tenth, tenth))


HDF5 = Source(open_file, "images", (WINDOW,))
