"""`text` and `text:FILE`: text as bytes, for a language model that predicts the next one."""

import numpy as np

from mpilayer.base.cli import Option, count
from mpilayer.data.source import Data, Source, checked, error, integer, require

TEST = 10  # one part in so many, the last one, is for tests


class Windows:
    """Neighbouring sequences of `context` bytes of a text; the labels are the bytes that follow each byte.

    In each epoch of training all are shifted by another number of bytes, so that they are cut at other places.
    """

    def __init__(self, text, context, seed):
        self.text, self.context, self.seed = text, context, seed

    def __len__(self):
        return max(0, len(self.text) // self.context - 1)

    def subset(self, indices):
        """Those of the sequences `indices` (n,)."""
        return Chosen(self, indices)

    def read(self, indices, epoch=None):
        """x and y (n,T) int64: tokens and the next ones. Raises DataError for an index outside 0..len-1."""
        T = self.context
        shift = 0 if epoch is None else np.random.default_rng([self.seed, epoch]).integers(T)
        places = checked(indices, len(self))[:, None] * T + np.arange(T) + shift
        return self.text[places].astype(np.int64), self.text[places + 1].astype(np.int64)


class Chosen:
    """Some of the sequences of Windows, by their numbers `places` (N,)."""

    def __init__(self, windows, places):
        self.windows, self.places = windows, places

    def __len__(self):
        return len(self.places)

    def read(self, indices, epoch=None):
        """As of Windows."""
        return self.windows.read(self.places[checked(indices, len(self))], epoch)


def reference():
    """The English reference text inside Python's own documentation."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics)).encode()


def _content(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as wrong:
        raise error(path, f"cannot be read: {wrong.strerror}", "another file") from wrong


def open_text(path=None, *, seed=0, ranks=None, context=256):
    """Data of a text file, by default `reference()`: a sample is a sequence of `context` bytes, there are 256 classes.

    The last tenth is the test part. Raises DataError for a text too short for both, or a file that cannot be read.
    """
    name = "text" if path is None else f"text:{path}"
    context, seed = integer(name, "context", context, 1), integer(name, "seed", seed, 0)
    text = np.array(bytearray(reference() if path is None else _content(path)))
    begin = len(text) - len(text) // TEST
    train, test = Windows(text[:begin], context, seed), Windows(text[begin:], context, seed)
    require(len(test) > 0, name, f"expected at least {2 * TEST * context} bytes, got {len(text)}",
            "a longer text or a smaller --context")
    return Data(name, (context,), 256, train, test)


TEXT = Source(open_text, "tokens", (Option("context", "bytes in a sample (default: the net's)", count),),
              like=lambda shape, classes: {"context": shape and shape[0]})
