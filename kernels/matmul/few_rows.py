"""Products with few rows: the weights are the traffic, each is read once, in order."""


from kernels import compiled
from kernels.micro import ACCUMULATE, RELU, multiply
from kernels.vectors import call

FLOAT = 4
SLICE = 128  # rows of weights multiplied before y is touched again: a panel of them fits L1
SUMMED = 1024  # products in one go: the rounding error grows with the longest sum
AHEAD = 2  # panels to fetch: the hardware does not follow a walk down the columns
CROWDED = 4096  # bytes from one row to the next, or a multiple: all rows would share the same sets of L1

jit = compiled.kernel()


@jit
def times(tile, x, w, bias, relu, y, more, first, last):
    """Panels first to last of y = x w; w is read where it lies, not packed."""
    wide = tile.columns
    (M, C), K = x.shape, w.shape[1]
    for c in range(0, C, SLICE):
        depth = min(SLICE, C - c)
        mode = (ACCUMULATE if more or c > 0 else 0) | (RELU if relu and c + depth == C else 0)
        for k in range(first * wide, min(K, last * wide), wide):
            b = w.ctypes.data + (c * K + k) * FLOAT
            call(tile.address, (M, min(wide, K - k), depth, x.ctypes.data + c * FLOAT, C * FLOAT, FLOAT, b, K * FLOAT,
                                y.ctypes.data + k * FLOAT, K * FLOAT, 1, tile.zero, tile.zero, mode,
                                bias.ctypes.data + k * FLOAT if bias.size else 0, b + AHEAD * wide * FLOAT,
                                K * FLOAT, 0))


@jit
def times_transposed(tile, panels, w, part, y, first, last):
    """Columns first to last of y^T = w x^T, tile by tile: so the rows of the tile are rows of w, read where they are.

    panels (M/wide, C, wide) is x^T.
    """
    wide, (M, C) = tile.columns, (y.shape[0], w.shape[1])
    tall = tile.rows // 2 if C * FLOAT % CROWDED == 0 else tile.rows  # no more than the ways of a set
    for k in range(first, last, tall):
        rows = min(tall, last - k)
        for j in range(panels.shape[0]):
            width = min(wide, M - j * wide)
            for c in range(0, C, SUMMED):
                a = w.ctypes.data + (k * C + c) * FLOAT
                multiply(tile, rows, width, min(SUMMED, C - c), (a, C * FLOAT, FLOAT),
                         (panels[j, c:].ctypes.data, wide * FLOAT), (part.ctypes.data, wide * FLOAT),
                         ACCUMULATE if c > 0 else 0, (a, 0, 0))
            for m in range(width):
                for i in range(rows):
                    y[j * wide + m, k + i] = part[i, m]


@jit
def summed(tile, x, dy, dw, first, last):
    """Rows first to last of dw = x^T dy, tile by tile: dw is written in order."""
    tall, wide = tile.rows, tile.columns
    (M, C), K = x.shape, dy.shape[1]
    for c in range(first, last, tall):
        for k in range(0, K, wide):
            target = dw.ctypes.data + (c * K + k) * FLOAT
            multiply(tile, min(tall, last - c), min(wide, K - k), M, (x.ctypes.data + c * FLOAT, FLOAT, C * FLOAT),
                     (dy.ctypes.data + k * FLOAT, K * FLOAT), (target, K * FLOAT), 0,
                     (target + AHEAD * wide * FLOAT, K * FLOAT, 0))
