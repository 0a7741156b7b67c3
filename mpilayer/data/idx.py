"""`idx:FOLDER`: IDX files, the format of MNIST (yann.lecun.com/exdb/mnist); `fashion-mnist`: such a folder."""

import gzip
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from mpilayer.data.augment import WINDOW
from mpilayer.data.node_shared import hold
from mpilayer.data.source import Data, Source, error, in_memory, require

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
NAMES = {"train": "train", "test": "t10k"}
REMEDY = "fetching the file again"


def _read(folder, name):
    """The array of bytes in FOLDER/name or its .gz."""
    paths = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
    require(paths, folder, f"expected a file {name} or {name}.gz, there is none",
            "the folder with all four IDX files; Debian's package dataset-fashion-mnist brings Fashion-MNIST's")
    try:
        raw = paths[0].read_bytes()
        raw = gzip.decompress(raw) if paths[0].suffix == ".gz" else raw
    except (OSError, EOFError) as wrong:
        raise error(paths[0], f"cannot be read: {wrong}", REMEDY) from wrong
    return _parsed(paths[0], raw)


def _parsed(path, raw):
    """Two zeros, the type (8: bytes), the number of dimensions, a big-endian size for each, the values."""
    known = len(raw) >= 4 and raw[:3] == b"\0\0\x08"
    require(known, path, f"expected an IDX file of bytes, it begins with {raw[:4]!r}", REMEDY)
    start = 4 + 4 * raw[3]
    require(len(raw) >= start, path, f"expected {raw[3]} sizes, the file ends before", REMEDY)
    shape = tuple(np.frombuffer(raw, ">u4", raw[3], 4).tolist())
    require(len(raw) - start == math.prod(shape), path,
            f"expected {math.prod(shape)} values for {shape}, got {len(raw) - start}", REMEDY)
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _part(folder, name, ranks):
    """(Part, shape of an image, what closes it)."""
    prefix = NAMES[name]
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte").astype(np.int64)

    def load():
        images = _read(folder, f"{prefix}-images-idx3-ubyte")
        require(images.ndim == 3 and images.size and labels.shape == images.shape[:1], f"{folder} | {name}",
                f"expected images (N,H,W) with as many labels, got {images.shape} and {labels.shape}", REMEDY)
        return images[..., None].copy()

    images, close = hold(load, ranks)
    return in_memory(images, labels), images.shape[1:], close


def open_idx(folder, *, seed=0, ranks=None):
    """Data of a folder with train- and t10k-images-idx3-ubyte and -labels-idx1-ubyte, or their .gz, for every seed.

    A byte v is read as v / 127.5 - 1. Images are in memory, with `ranks` (mpilayer.Ranks) once a node. Raises DataError
    for any other content.
    """
    folder = Path(folder)
    (train, shape, close), (test, other, close_test) = (_part(folder, name, ranks) for name in NAMES)
    require(shape == other, folder, f"expected test images of {shape}, got {other}", REMEDY)
    classes = 1 + int(max(train.labels.max(), test.labels.max()))
    return Data(f"idx:{folder}", shape, classes, train, test, (close, close_test))


def open_fashion(*, seed=0, ranks=None):
    """Data of Debian's package dataset-fashion-mnist: 60000 training and 10000 test images (28,28,1) of 10 classes."""
    return replace(open_idx(FASHION, ranks=ranks), name="fashion-mnist")


IDX = Source(open_idx, "images", (WINDOW,))
FASHION_MNIST = Source(open_fashion, "images", (WINDOW,))
