"""How --data finds a source: by its name, by a path, or in a module of the user's own."""

import os
import traceback
from functools import partial

import numpy as np

from mpilayer.base.cli import Choice
from mpilayer.base.errors import UserError
from mpilayer.data.source import Data, Source, error, require, samples_of
from mpilayer.data.stored import HDF5, SUFFIXES


class SourceChoice(Choice):
    """The Choice of `sources`, {name: Source}, where words in capitals stand for a path: NAME, NAME:PATH or FILE.h5."""

    def __init__(self, sources):
        self.sources = sources
        defaults = f"{self.default_for(None)}; {self.default_for((1,))} for a net of tokens"
        super().__init__("data", dict(sources), None, f"samples to train on (default: {defaults})", _own)

    def default_for(self, shape):
        """Name of the first source whose samples are like these: (H,W,C) or (T,); None: images."""
        wanted = samples_of(shape) or "images"
        return next(name for name, source in self.sources.items() if source.samples == wanted)

    def load(self, text, where="--data"):
        """The Source, with its path if it has one. Raises DataError, or UserError for what cannot be imported."""
        prefix, _, path = text.partition(":")
        for name, source in self.sources.items():
            if path and name.startswith(f"{prefix}:"):
                return source.at(path)
        if text in self.sources and text.islower():
            return self.sources[text]
        if text.lower().endswith(SUFFIXES) or os.path.exists(text):
            return HDF5.at(text)
        module, _, name = text.rpartition(":")
        require(module and name.isidentifier(), text, "unknown source", ", ".join(self.sources))
        source = super().load(text, where)
        return source._replace(open=partial(_open_own, text, source.open))

    def _checked(self, text):
        return text  # load() says what is wrong with it; argparse would hide that


def _own(thing):
    """The Source of what the user's module has under that name. Raises UserError if it is none."""
    if not isinstance(thing, Source) and not callable(thing):
        raise UserError(f"--data: expected a Source, or a function of seed and ranks that returns Data, got a"
                        f" {type(thing).__name__}")
    return thing if isinstance(thing, Source) else Source(thing)


def _open_own(text, opening, **arguments):
    """The Data that a user's function returns. Raises DataError for whatever goes wrong in it, or with its samples."""
    try:
        data = opening(**arguments)
        require(isinstance(data, Data), text, f"expected Data to be returned, got {type(data).__name__}",
                "return mpilayer.data.Data(...)")
        _check_samples(text, data)
        return data
    except (UserError, MemoryError):
        raise
    except Exception as wrong:  # whatever the user's code raises
        place = traceback.extract_tb(wrong.__traceback__)[-1]
        raise error(text, f"cannot be opened: {type(wrong).__name__}: {' '.join(str(wrong).split())}",
                    f"a look at line {place.lineno} of {place.filename}") from wrong


def _check_samples(text, data):
    """Raise DataError unless the first sample is what the Data says and nets can take."""
    x, y = data.train.read([0])
    tokens = samples_of(data.shape) == "tokens"
    wanted = (np.dtype(np.int64 if tokens else np.float32), (1, *data.shape), np.dtype(np.int64),
              (1, *data.shape) if tokens else (1,))
    got = x.dtype, x.shape, y.dtype, y.shape
    require(got == wanted, text, "expected read([0]) to return {} {} and {} {}".format(*wanted)
            + ", got {} {} and {} {}".format(*got), "another shape in Data, or astype")
