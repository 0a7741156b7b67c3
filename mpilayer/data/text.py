"""Text as bytes, for a language model that predicts the next one."""

import numpy as np

from mpilayer.data.source import Data, checked, error, integer, require

TEST = 10  # the last part of so many is for tests


class Windows:
    """Sequences of `context` bytes of a text, one after the other, each with the bytes that follow.

    In training they begin at another place in each epoch, so that all pairs of neighbours are seen together at times.
    """

    def __init__(self, text, context, seed):
        self.text, self.context, self.seed = text, context, seed

    def __len__(self):
        return max(0, len(self.text) // self.context - 1)

    def read(self, indices, epoch=None):
        """x and y (n,T) int64: tokens and the next ones. Raises DataError for an index outside 0..len-1."""
        T = self.context
        shift = 0 if epoch is None else np.random.default_rng([self.seed, epoch]).integers(T)
        places = checked(indices, len(self))[:, None] * T + np.arange(T) + shift
        return self.text[places].astype(np.int64), self.text[places + 1].astype(np.int64)


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


def open_text(path=None, seed=0, context=256):
    """Data of a text file, by default `reference()`: bytes are the classes, sequences of `context` of them the samples.

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
