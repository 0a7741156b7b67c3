"""Where pooling windows lie: worked out once for each axis, shared by every operation and its reference."""

import functools
from typing import NamedTuple

import numpy as np

from kernels import arguments
from kernels.arguments import pair, require


class Axis(NamedTuple):
    """The windows along one axis, one entry of each array per output position."""

    window: int
    start: np.ndarray  # first tap, negative inside the padding
    begin: np.ndarray  # the taps that lie inside the input: begin <= i < end
    end: np.ndarray
    count: np.ndarray  # taps an average divides by
    numbers: tuple  # what all these follow from: pixels, outputs, taps, stride, padding, and where such taps may lie


def axes(operation, x_shape, window, stride, padding=0, ceil_mode=False, count_include_pad=True):
    """The Axis of the rows and that of the columns of an input (N,H,W,C)."""
    return _axes(operation, tuple(x_shape[1:3]), pair(operation, "window", window), pair(operation, "stride", stride),
                 arguments.padding(operation, padding), ceil_mode, count_include_pad)


@functools.cache
def _axes(operation, image, window, stride, padding, ceil_mode, count_include_pad):
    fits = all(max(side) < size for side, size in zip(padding, window, strict=True))
    require(fits, operation, "padding {} must be smaller than window {}", padding, window)
    outputs = [_outputs(*axis, ceil_mode) for axis in zip(image, window, stride, padding, strict=True)]
    require(min(outputs) > 0, operation,
            "x of {} pixels with window {}, stride {} and padding {} leaves an output of {}",
            image, window, stride, padding, outputs)
    each = zip(image, window, stride, padding, outputs, strict=True)
    rows, columns = (_axis(*axis, count_include_pad) for axis in each)
    return rows, columns


def _outputs(size, window, stride, padding, ceil_mode):
    spare = size + sum(padding) - window
    if not ceil_mode:
        return spare // stride + 1
    outputs = -(-spare // stride) + 1
    # The last window may hang over the end, but must start inside the input or the padding before it.
    return outputs - ((outputs - 1) * stride >= size + padding[0])


def _axis(size, window, stride, padding, outputs, count_include_pad):
    start = np.arange(outputs) * stride - padding[0]
    begin, end = np.maximum(start, 0), np.minimum(start + window, size)
    low, high = (-padding[0], size + padding[1]) if count_include_pad else (0, size)
    count = np.minimum(start + window, high) - np.maximum(start, low)
    return Axis(window, start, begin, end, count, (size, outputs, window, stride, padding[0], low, high))
