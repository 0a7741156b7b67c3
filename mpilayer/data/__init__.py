"""Data sources, how their samples are divided among steps and ranks, and how they are read."""

import os

from mpilayer.data.augment import AUGMENTS, WINDOW, view_images
from mpilayer.data.choice import SourceChoice
from mpilayer.data.digits import DIGITS
from mpilayer.data.idx import FASHION_MNIST, IDX
from mpilayer.data.partition import batches, share
from mpilayer.data.prefetch import prefetch
from mpilayer.data.source import Data, DataError, Part, Source, error, held_out, in_memory, require, samples_of
from mpilayer.data.stored import HDF5
from mpilayer.data.synthetic import SYNTHETIC
from mpilayer.data.text import TEXT
from mpilayer.mpi.agreement import compare

__all__ = ["AUGMENTS", "DATA", "SOURCES", "Data", "DataError", "Part", "Source", "batches", "in_memory", "open_data",
           "prefetch", "samples_of", "share"]

# {as it is written, where capitals stand for a path: Source}; the first one of images and of tokens is the default
SOURCES = {"digits": DIGITS, "synthetic": SYNTHETIC, "fashion-mnist": FASHION_MNIST, "idx:FOLDER": IDX,
           "text": TEXT, "text:FILE": TEXT, "FILE.h5": HDF5}
DATA = SourceChoice(SOURCES)


def open_data(source="digits", *, seed=0, shape=None, augment="none", validation=0.0, ranks=None, like=None,
              **options):
    """Data of a source: its `train` and `test` parts are read by read(indices), `shape` and `classes` describe them.

    source       one of SOURCES, with a path where it has capitals, or MODULE:NAME or FILE.py:NAME of your own: a
                 Source, or a function of seed and ranks that returns Data
    seed         an integer >= 0: of images that are made up, of augmentation, and of where texts are cut
    shape        (H,W,C): of synthetic images; of stored ones the window that is read, in the middle unless `augment`
                 moves it, by default all
    augment      one of AUGMENTS: what happens to images in training
    validation   share, from 0 to less than 1, of the training samples that takes the place of the test part
    ranks        mpilayer.Ranks, which then open it together: an error on one of them is raised on all, as AgreedError,
                 and images in memory are shared by the ranks of a node
    like         (shape, classes) of the samples that a net is made for, each of them perhaps None; synthetic and text
                 sources take them where nothing else is asked for
    options      the source's own: `classes` (synthetic), `context` (text); None: its default

    read() gives images as float32 (n,H,W,C) with int64 labels (n,), or tokens and the ones that follow, both int64
    (n,T). Raises DataError for an unknown source, an option that it has not, and data that cannot be used; UserError if
    your own source cannot be imported.
    """
    def opened():
        try:
            return _opened(source, seed, shape, augment, validation, ranks, like, options)
        except MemoryError as wrong:
            raise error(source, f"not enough memory: {wrong}", "a smaller --shape, or fewer ranks") from None

    if not ranks:
        return opened().held(None)
    data = ranks.agree(opened)
    sizes = {"shape of the data": data.shape, "training samples": len(data.train), "test samples": len(data.test)}
    compare(ranks, {**sizes, "arrays": len(data.holding)}, "the same files on all hosts")
    return data.held(ranks)


def _opened(source, seed, shape, augment, validation, ranks, like, options):
    """The Data, of which nothing is in memory yet: no rank waits for another here."""
    require(isinstance(source, str | os.PathLike), "data", f"expected a name, got {source!r}", "'digits'")
    name = os.fsdecode(source)
    chosen = DATA.load(name)
    known = {option.name: option for option in chosen.options}
    asked = {key: value for key, value in {"shape": shape, **options}.items() if value is not None}
    window = asked.pop("shape", None) if known.get("shape", WINDOW) is WINDOW else None
    strange = [key for key in asked if key not in known]
    require(not strange, name, f"expected no {' or '.join(strange)}: this source has its own", "leaving it out")
    data = chosen.open(seed=seed, ranks=ranks, **chosen.defaults(like) | asked)
    return held_out(view_images(data, window, augment, seed), validation)
