"""How an image is cut into squares for transforms (winograd.py), and their way to the points."""

from typing import NamedTuple

from kernels import compiled
from kernels.conv2d.pixels import FLOAT, gather
from kernels.vectors import call

OUTPUTS = {3: 4, 4: 5, 5: 4}  # taps r: outputs m, which make 6 points or 8

inner = compiled.part()


class Squares(NamedTuple):
    """How an image is cut: m x m outputs from n x n inputs, stride and border, lines in an image and their length."""

    m: int
    n: int
    stride: int
    top: int
    left: int
    down: int
    across: int


def cut_into_squares(r, stride, padding, P, Q):
    """The Squares for r taps and P x Q outputs."""
    m = OUTPUTS[r]
    return Squares(m, m + r - 1, stride, padding[0][0], padding[1][0], -(-P // m), -(-Q // m))


def lines_of(cut, images, channels, size):
    """How many lines have points, of so many channels in all, that fill `size` bytes."""
    return min(images * cut.down, max(1, size // (channels * cut.n**2 * cut.across * FLOAT)))


@inner
def to_points(data, x, cut, start, lines, line, v):
    """A block of lines to the points v (n * n, squares, channels)."""
    m, n, s, top, left, down, across = cut
    columns, C = line.shape[1:]
    plane, step = v.shape[1] * v.shape[2] * FLOAT, v.shape[2] * FLOAT
    for i in range(lines):
        gather(x[(start + i) // down], (start + i) % down * m, top, left, s, line)
        call(data, (across, C, line.ctypes.data, columns * C * FLOAT, C * FLOAT, m * C * FLOAT,
                    v[0, i * across:].ctypes.data, n * plane, plane, step, 0, 0))
