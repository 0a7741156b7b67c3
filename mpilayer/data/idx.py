"""`idx:FOLDER`: IDX files, the format of MNIST (yann.lecun.com/exdb/mnist); `fashion-mnist`: such a folder."""

import contextlib
import gzip
import math
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpilayer.data.augment import WINDOW
from mpilayer.data.node_shared import hold
from mpilayer.data.source import Data, Part, Source, error, require

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
NAMES = {"train": "train", "test": "t10k"}
REMEDY = "fetching the file again"


class _File:
    """FOLDER/name or its .gz, of which only the header has been read. Raises DataError."""

    def __init__(self, folder, name):
        paths = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        require(paths, folder, f"expected a file {name} or {name}.gz, there is none",
                "the folder with all four IDX files; Debian's package dataset-fashion-mnist brings Fashion-MNIST's")
        self.path = paths[0]
        with self._reading() as file:
            self.shape = self._header(file)

    @contextlib.contextmanager
    def _reading(self):
        try:
            with (gzip.open if self.path.suffix == ".gz" else open)(self.path, "rb") as file:
                yield file
        except (OSError, EOFError, zlib.error) as wrong:
            raise error(self.path, f"cannot be read: {wrong}", REMEDY) from wrong

    def _header(self, file):
        """Two zeros, the type (8: bytes), the number of dimensions, a big-endian size for each."""
        begin = file.read(4)
        known = len(begin) == 4 and begin[:3] == b"\0\0\x08"
        require(known, self.path, f"expected an IDX file of bytes, it begins with {begin!r}", REMEDY)
        sizes = file.read(4 * begin[3])
        require(len(sizes) == 4 * begin[3], self.path, f"expected {begin[3]} sizes, the file ends before", REMEDY)
        return tuple(np.frombuffer(sizes, ">u4").tolist())

    def values(self):
        """All bytes, in the header's shape; no more than it promises are unpacked."""
        count = math.prod(self.shape)
        with self._reading() as file:
            self._header(file)
            raw = file.read(count + 1)
        got = f"{len(raw)}" if len(raw) <= count else "more"
        require(len(raw) == count, self.path, f"expected {count} values for {self.shape}, got {got}", REMEDY)
        return np.frombuffer(raw, np.uint8).reshape(self.shape)


class _Images:
    """Images (N,H,W,1) of a file, by row; in memory once they are held."""

    def __init__(self, file):
        self.file, self.values = file, None

    def hold(self, ranks):
        """Read them, once on a node if there is room for them to be shared."""
        held = hold(self._load, ranks)
        self.values = self._load() if held is None else held

    def _load(self):
        return self.file.values()[..., None].copy()

    def __call__(self, rows):
        return self.values[rows]


def _part(folder, name):
    """Part of the images of a folder, which are not in memory yet. Raises DataError."""
    prefix = NAMES[name]
    labels = _File(folder, f"{prefix}-labels-idx1-ubyte").values().astype(np.int64)
    file = _File(folder, f"{prefix}-images-idx3-ubyte")
    good = len(file.shape) == 3 and math.prod(file.shape) and labels.shape == file.shape[:1]
    require(good, f"{folder} | {name}",
            f"expected images (N,H,W) with as many labels, got {file.shape} and {labels.shape}", REMEDY)
    return Part(_Images(file), np.arange(len(labels)), labels)


def open_idx(folder, *, seed=0, ranks=None):
    """Data of a folder with train- and t10k-images-idx3-ubyte and -labels-idx1-ubyte, or their .gz, for every seed.

    A byte v is read as v / 127.5 - 1. Images are held in memory. Raises DataError for any other content.
    """
    folder = Path(folder)
    train, test = (_part(folder, name) for name in NAMES)
    shape, other = ((*part.images.file.shape[1:], 1) for part in (train, test))
    require(shape == other, folder, f"expected test images of {shape}, got {other}", REMEDY)
    classes = 1 + int(max(train.labels.max(), test.labels.max()))
    return Data(f"idx:{folder}", shape, classes, train, test, holding=(train.images.hold, test.images.hold))


def open_fashion(*, seed=0, ranks=None):
    """Data of Debian's package dataset-fashion-mnist: 60000 training and 10000 test images (28,28,1) of 10 classes."""
    return replace(open_idx(FASHION), name="fashion-mnist")


IDX = Source(open_idx, "images", (WINDOW,))
FASHION_MNIST = Source(open_fashion, "images", (WINDOW,))
