"""Products with few rows: the weights are the traffic, each is read once, in order."""

from kernels import compiled, scratch
from kernels.bfloat16 import narrow
from kernels.hints import adjacent, restrict
from kernels.layout import copy, padded_length
from kernels.matmul import packed
from kernels.matmul.packed import CROWDED, FLOAT, SUMMED
from kernels.micro import ACCUMULATE, BFLOAT16, RELU, multiply
from kernels.threads import parallel_for
from kernels.vectors import call

SLICE = 128  # rows of weights multiplied before y is touched again: a panel of them fits L1
AHEAD = 2  # panels to fetch: the hardware does not follow a walk down the columns
TOGETHER = 256  # rows of x in a sum
PANELS = 3  # tiles, one below the other, for which a panel is worth copying

jit, inner = compiled.decorators()


@inner
def _panel(w, panel):
    """A panel of w (depth, at most as many columns) where its rows lie next to each other."""
    panel = restrict(panel)
    for c in range(w.shape[0]):
        source, target = adjacent(w[c]), adjacent(panel[c])
        for k in range(source.size):
            target[k] = source[k]


def memory(tile, M):
    """What `times` works in: a copy of a slice of x, and of a panel of w."""
    return scratch.array("x", (M, padded_length(SLICE))), scratch.array("panel", (SLICE, tile.columns))


@jit
def times(tile, x, w, bias, relu, y, more, x_copy, panel, first, last):
    """Panels first to last of y = x w; w is read where it lies, or if many rows need it by way of `panel`."""
    wide = tile.columns
    (M, C), K = x.shape, w.shape[1]
    for c in range(0, C, SLICE):
        depth = min(SLICE, C - c)
        mode = (ACCUMULATE if more or c > 0 else 0) | (RELU if relu and c + depth == C else 0)
        a, a_row = x.ctypes.data + c * FLOAT, C * FLOAT
        if a_row % CROWDED == 0 and tile.rows < M:
            copy(x[:, c:c + depth], x_copy)
            a, a_row = x_copy.ctypes.data, x_copy.strides[0]
        for k in range(first * wide, min(K, last * wide), wide):
            width, lies = min(wide, K - k), w.ctypes.data + (c * K + k) * FLOAT
            b, b_k = lies, K * FLOAT
            if PANELS * tile.rows < M:
                _panel(w[c:c + depth, k:k + width], panel)
                b, b_k = panel.ctypes.data, wide * FLOAT
            call(tile.address, (M, width, depth, a, a_row, FLOAT, b, b_k, y.ctypes.data + k * FLOAT, K * FLOAT, 1,
                                tile.zero, tile.zero, mode, bias.ctypes.data + k * FLOAT if bias.size else 0,
                                lies + AHEAD * wide * FLOAT, K * FLOAT, 0))


@jit
def _times_transposed(tile, panels, w, part, y, first, last):
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
                    y[j * wide + m, k + i] = narrow(part[i, m], y)


def times_transposed(tile, x, w, y):
    """y (M,K) = x (M,C) w^T, w (K,C)."""
    (M, C), wide = x.shape, tile.columns
    panels = scratch.array("panels", (-(-M // wide), C, wide))
    packed.pack(x, True, 0, len(panels), panels)

    def work(first, last):
        part = scratch.array("part", (tile.rows, wide))
        _times_transposed(tile, panels, w, part, y, first, last)

    parallel_for(len(w), work)


@jit
def summed(tile, x, dy, dw, first, last):
    """Rows first to last of dw = x^T dy, tile by tile: dw is written in order, for every TOGETHER rows of x once. It is
    float32, or of no more rows uint16 for bfloat16.
    """
    tall, wide = tile.rows, tile.columns
    (M, C), K, each = x.shape, dy.shape[1], dw.itemsize
    short = BFLOAT16 if each < FLOAT else 0
    for m in range(0, M, TOGETHER):
        a, b = x.ctypes.data + m * C * FLOAT, dy.ctypes.data + m * K * FLOAT
        for c in range(first, last, tall):
            for k in range(0, K, wide):
                target = dw.ctypes.data + (c * K + k) * each
                multiply(tile, min(tall, last - c), min(wide, K - k), min(TOGETHER, M - m),
                         (a + c * FLOAT, FLOAT, C * FLOAT), (b + k * FLOAT, K * FLOAT), (target, K * each),
                         short | (ACCUMULATE if m > 0 else 0), (target + AHEAD * wide * each, K * each, 0))
