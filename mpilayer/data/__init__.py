"""Where samples come from, which of them make a step, and which of those are a rank's.

`open_data` opens a source, one file here for each kind; `batches` and `share` divide it.
"""

import os
from dataclasses import replace
from pathlib import Path

from mpilayer.data.augment import AUGMENTS, View
from mpilayer.data.idx import FASHION, open_idx
from mpilayer.data.partition import batches, share
from mpilayer.data.prefetch import prefetch
from mpilayer.data.source import Data, DataError, Part, held_out, require
from mpilayer.data.stored import open_file
from mpilayer.data.synthetic import open_synthetic
from mpilayer.data.text import open_text

__all__ = ["AUGMENTS", "SOURCES", "Data", "DataError", "Part", "batches", "open_data", "open_file", "prefetch", "share"]


def _digits(path, ranks, seed):
    """The embedded digits, whatever the seed: 1437 training and 360 test samples (8,8,1) of 10 classes."""
    return replace(open_file(str(Path(__file__).with_name("digits.h5")), ranks), name="digits")


def _fashion(path, ranks, seed):
    return replace(open_idx(FASHION, ranks), name="fashion-mnist")


# name: (what opens (path, ranks, seed, and what was asked for of these), what may be asked for)
SOURCES = {
    "digits": (_digits, ()),
    "synthetic": (lambda path, ranks, seed, **form: open_synthetic(seed, **form), ("shape", "classes")),
    "fashion-mnist": (_fashion, ()),
    "idx:FOLDER": (lambda path, ranks, seed: open_idx(path, ranks), ()),
    "text": (lambda path, ranks, seed, **form: open_text(None, seed, **form), ("context",)),
    "text:FILE": (lambda path, ranks, seed, **form: open_text(path, seed, **form), ("context",)),
    "FILE.h5": (lambda path, ranks, seed: open_file(path, ranks), ()),
}


def _kind(name):
    """(key of SOURCES, path). Raises DataError."""
    prefix, _, path = name.partition(":")
    for key in SOURCES:
        if path and key.startswith(f"{prefix}:"):
            return key, path
    if name in SOURCES and name.islower():  # what is in capitals stands for a path
        return name, None
    known = name.lower().endswith((".h5", ".hdf5")) or os.path.exists(name)
    require(known, name, "unknown source", ", ".join(SOURCES))
    return "FILE.h5", name


def open_data(source="digits", *, seed=0, shape=None, classes=None, context=None, augment="none", validation=0.0,
              ranks=None):
    """Open a source of samples; the Data, which is closed by `with` or close().

    source       "digits", "synthetic", "fashion-mnist", "idx:FOLDER", "text", "text:FILE", or the path of an HDF5 file
    seed         of synthetic images, of random windows and flips
    shape        (H,W,C) of synthetic images; of stored images the window that is read
    classes      number of classes of synthetic images
    context      bytes in a sample of text
    augment      what happens to images in training: "none", "flip", "crop" or "resized-crop"
    validation   share of the training samples, from 0, less than 1, that takes the place of the test part
    ranks        Ranks: keep what is in memory once a node, not once a rank; then all ranks call this together

    Raises DataError for an unknown source, for an argument that the source does not have, and for unusable data.
    """
    require(isinstance(source, str | os.PathLike), "data", f"expected a name, got {source!r}", "'digits'")
    name = os.fsdecode(source)
    kind, path = _kind(name)
    opener, forms = SOURCES[kind]
    asked = {key: value for key, value in {"shape": shape, "classes": classes, "context": context}.items()
             if value is not None}
    window = asked.pop("shape", None) if "shape" not in forms else None
    strange = [key for key in asked if key not in forms]
    require(not strange, name, f"expected no {' or '.join(strange)}: this source has its own", "leaving it out")
    data = opener(path, ranks, seed, **asked)
    return held_out(_viewed(data, window, augment, seed), validation)


def _viewed(data, window, augment, seed):
    """The data seen through a window of (H,W,C), or as it is. Raises DataError."""
    if window is None and augment == "none":
        return data
    require(len(data.shape) == 3, data.name, "expected no --shape or --augment: these are no images", "leaving it out")
    require(augment in AUGMENTS, "augment", f"unknown, got {augment!r}", ", ".join(AUGMENTS))
    window = window or data.shape
    fits = window[2] == data.shape[2] and all(w <= e for w, e in zip(window, data.shape, strict=True))
    require(fits, data.name, f"expected a shape of at most {data.shape} and as many channels, got {window}",
            "a smaller --shape")
    for part in (data.train, data.test):
        part.view = View(part.view, augment, window[:2], seed)
    return replace(data, shape=tuple(window))
