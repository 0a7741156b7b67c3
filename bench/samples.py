"""Layers of nobody's net: random shapes, as other people's nets may have them."""

import numpy as np

from kernels.conv2d.cases import Case as Convolution
from kernels.dense.cases import Case as Dense

CHANNELS, BATCH, SIZE = 2048, 64, 224  # at most; all are drawn so that each doubling is as likely as any other
WINDOWS = 1, 1, 1, 2, 3, 3, 3, 4, 5, 7
FLOPS, NUMBERS = (2e7, 2e10), 5e7  # of a pass, and in an array: work of about 0.2 ms to 0.5 s
ROWS = 16  # times as many rows may a dense layer have


def _whole(rng, most):
    """1 to most."""
    return int(np.exp(rng.uniform(0, np.log(most + 1))))


def _groups(rng, channels):
    """One, a divisor of the channels, or as many: (groups, channels)."""
    which = rng.choice(["one", "some", "each"], p=[0.6, 0.2, 0.2])
    if which == "each":
        return channels, channels
    groups = 1 if which == "one" else int(rng.choice([2, 3, 4, 8, 32]))
    return groups, -(-channels // groups) * groups


def _convolution(rng, name):
    groups, channels = _groups(rng, _whole(rng, CHANNELS))
    filters = channels if groups == channels else -(-_whole(rng, CHANNELS) // groups) * groups
    window, stride, dilation = int(rng.choice(WINDOWS)), int(rng.choice([1, 1, 2])), int(rng.choice([1, 1, 1, 1, 2]))
    reach = dilation * (window - 1) + 1
    padding = int(rng.choice([0, reach // 2]))
    size = max(_whole(rng, SIZE), reach - 2 * padding)
    return Convolution("random", name, size, channels, filters, window, stride, padding, groups, dilation)


def _sizes(case, batch):
    return [np.prod(shape, dtype=float) for shape in case.shapes(batch)]


def draw(count, seed):
    """So many (case, batch): nine convolutions for each dense layer, none tiny and none huge."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < count:
        name, batch = str(len(found)), _whole(rng, BATCH)
        if len(found) % 10 == 9:
            case, batch = Dense("random", name, _whole(rng, CHANNELS), _whole(rng, CHANNELS)), ROWS * batch
        else:
            case = _convolution(rng, name)
        if FLOPS[0] <= case.flops(batch) <= FLOPS[1] and max(_sizes(case, batch)) <= NUMBERS:
            found.append((case, batch))
    return found
