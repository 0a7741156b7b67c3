"""Convolution by transforms (transform.py): a small matrix product for each point, by the micro-kernel.

The output is cut into squares of m x m pixels; a line is a row of squares. Lines go through in blocks, so that their
points stay in cache. An image with a stride s is one of 1/s the size with s*s times the channels and no stride.
"""

import functools

import numpy as np

from kernels import compiled, env, micro, scratch
from kernels.conv2d.pixels import copy_from, gather
from kernels.conv2d.squares import OUTPUTS, cut_into_squares, lines_of, to_points
from kernels.conv2d.transform import DATA, FILTER, GRADIENT, OUTPUT, WEIGHTS, transform
from kernels.layout import padded_length, transpose
from kernels.micro import ACCUMULATE, multiply
from kernels.threads import parallel_for
from kernels.vectors import call

ENABLED = env.is_on("KERNELS_WINOGRAD")
FLOAT, PARTS = 4, 4
NEAR, FAR = 1 << 20, 24 << 20  # bytes of points in a block: one core's L2, and the L3 it may share
SUMMED = {6: 256, 8: 64}  # products in one go, by n: more points magnify rounding errors, so sums are shorter

jit, inner = compiled.decorators()


def wins(w_shape, stride, groups, P, Q):
    """Whether this is switched on, and faster than the direct kernels."""
    return ENABLED and _faster(w_shape, stride, groups, P, Q)


@functools.cache
def _faster(w_shape, stride, groups, P, Q):
    """By counting products; what a transform costs was measured."""
    R, S, C, K = w_shape
    C, K = C * stride[0] * stride[1], K // groups
    r = -(-R // stride[0])
    if R != S or stride[0] != stride[1] or r not in OUTPUTS or (stride[0] > 1 and groups > 1):
        return False
    cut = cut_into_squares(r, stride[0], ((0, 0), (0, 0)), P, Q)
    squares = cut.down * cut.across * cut.n**2 * (C * K + 8 * (C + K))
    return squares < 0.8 * P * Q * R * S * w_shape[2] * K


@jit
def _filters(filter, w, n, first, last, u):
    """Filters (R,S,C,K) to the points u (n * n, groups, panels, C, wide), panels first to last of all groups."""
    R, S, C, K = w.shape
    _, groups, panels, _, wide = u.shape
    plane, Kg = groups * panels * C * wide * FLOAT, K // groups
    for j in range(first, last):
        g, k = j // panels, j % panels * wide
        call(filter, (C, min(wide, Kg - k), w.ctypes.data + (g * Kg + k) * FLOAT, S * C * K * FLOAT, C * K * FLOAT,
                      K * FLOAT, u[0, g, j % panels].ctypes.data, n * plane, plane, wide * FLOAT, 0, 0))


@inner
def _products(tile, v, u, K, squares, summed, z):
    """z (n * n, squares, K) = v (n * n, squares, C) times u, point by point."""
    wide = tile.columns
    points, groups, panels, C = u.shape[:4]
    for point in range(points):
        for g in range(groups):
            for j in range(panels):
                k = g * (K // groups) + j * wide
                for c in range(0, C, summed):
                    b = u[point, g, j, c].ctypes.data
                    multiply(tile, squares, min(wide, K // groups - j * wide), min(summed, C - c),
                             (v[point, 0, g * C + c:].ctypes.data, v.shape[2] * FLOAT, FLOAT), (b, wide * FLOAT),
                             (z[point, 0, k:].ctypes.data, z.shape[2] * FLOAT), ACCUMULATE if c > 0 else 0, (b, 0, 0))


@inner
def _output(output, z, bias, relu, cut, start, lines, edge, y):
    """A block of lines of z to y; squares that reach over the edge go through a line of their own."""
    m, n, down, across = cut.m, cut.n, cut.down, cut.across
    P, Q, K = y.shape[1:]
    plane, step = z.shape[1] * z.shape[2] * FLOAT, z.shape[2] * FLOAT
    for i in range(lines):
        image, row = (start + i) // down, (start + i) % down * m
        inside = across * m == Q and row + m <= P
        target = y[image, row:].ctypes.data if inside else edge.ctypes.data
        call(output, (across, K, z[0, i * across:].ctypes.data, n * plane, plane, step,
                      target, across * m * K * FLOAT, K * FLOAT, m * K * FLOAT, bias.ctypes.data, relu))
        for p in range(0 if inside else min(m, P - row)):
            copy_from(edge[p].reshape(across * m * K), 0, y[image, row + p].reshape(Q * K))


@jit
def _forward(tile, data, output, x, u, bias, relu, y, cut, summed, first, last, line, v, z, edge):
    block = v.shape[1] // cut.across
    for start in range(first, last, block):
        lines = min(block, last - start)
        to_points(data, x, cut, start, lines, line, v)
        _products(tile, v, u, y.shape[3], lines * cut.across, summed, z)
        _output(output, z, bias, relu, cut, start, lines, edge, y)


def _convolve(x, w, bias, relu, y, cut, groups):
    """y = x * w + bias, w (R,S,C/groups,K) without a stride: that is in the cut."""
    (r, _, Cg, K), m, n = w.shape, cut.m, cut.n
    tile, channels, lines = micro.tile(), Cg * groups, len(x) * cut.down
    data, filter, output = (transform(kind, m, r) for kind in (DATA, FILTER, OUTPUT))
    panels = -(-K // groups // tile.columns)
    u = scratch.array("u", (n * n, groups, panels, Cg, tile.columns))
    parallel_for(groups * panels, lambda first, last: _filters(filter, w, n, first, last, u))
    bias = bias if bias.size else np.zeros(K, np.float32)
    block = lines_of(cut, len(x), channels + K, 2 * NEAR if u.nbytes > 4 * NEAR else NEAR)

    def work(first, last):
        line = scratch.array("line", (n, cut.across * m + n - m, channels))
        v = scratch.array("v", (n * n, block * cut.across, padded_length(channels)))
        z = scratch.array("z", (n * n, block * cut.across, padded_length(K)))
        edge = scratch.array("edge", (m, cut.across * m, K))
        _forward(tile, data, output, x, u, bias, relu, y, cut, SUMMED[n], first, last, line, v, z, edge)

    parallel_for(lines, work)


def _unfold(w, s):
    """The filter (R,S,C,K) on s*s times the channels, zeros beyond its last taps."""
    R, S, C, K = w.shape
    r = -(-R // s)
    w = np.pad(w, ((0, r * s - R), (0, r * s - S), (0, 0), (0, 0)))
    return np.ascontiguousarray(w.reshape(r, s, r, s, C, K).transpose(0, 2, 1, 3, 4, 5)).reshape(r, r, s * s * C, K)


def _fold(w, s, shape):
    """Back to (R,S,C,K)."""
    r, (R, S, C, K) = len(w), shape
    return w.reshape(r, r, s, s, C, K).transpose(0, 2, 1, 3, 4, 5).reshape(r * s, r * s, C, K)[:R, :S]


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; an empty bias is none."""
    s = geometry.stride[0]
    w = _unfold(w, s) if s > 1 else w
    _convolve(x, w, bias, relu, y, cut_into_squares(len(w), s, geometry.padding, *y.shape[1:3]), geometry.groups)


@jit
def _flip(w, groups, flipped):
    """Filters flipped, (R,S,C,K) to (R,S,K/groups,C), group by group."""
    R, S, C, K = w.shape
    K //= groups
    for r in range(R):
        for s in range(S):
            for g in range(groups):
                transpose(w[R - 1 - r, S - 1 - s, :, g * K:(g + 1) * K], flipped[r, s, :, g * C:(g + 1) * C])


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx: a convolution with the filter flipped. There is no stride."""
    (r, _, C, K), ((top, _), (left, _)), groups = w.shape, geometry.padding, geometry.groups
    flipped = scratch.array("w", (r, r, K // groups, C * groups))
    _flip(w, groups, flipped)
    around = (r - 1 - top,) * 2, (r - 1 - left,) * 2
    _convolve(dy, flipped, np.zeros(0, np.float32), False, dx, cut_into_squares(r, 1, around, *dx.shape[1:3]), groups)


@inner
def _gradient(gradient, dy, cut, panels, start, lines, line, first, z):
    """A block of lines of dy to the points, panels of neighbouring k from `first` on: z (n * n, panels, squares, wide).

    A group has so many `panels`, (how many, how many k).
    """
    m, n, down, across = cut.m, cut.n, cut.down, cut.across
    columns, K = line.shape[1:]
    squares, wide = z.shape[2:]
    plane = z.shape[1] * squares * wide * FLOAT
    for i in range(lines):
        gather(dy[(start + i) // down], (start + i) % down * m, 0, 0, 1, line)
        for j in range(z.shape[1]):
            (g, k), (_, Kg) = divmod(first + j, panels[0]), panels
            k *= wide
            call(gradient, (across, min(wide, Kg - k), line[0, 0, g * Kg + k:].ctypes.data, columns * K * FLOAT,
                            K * FLOAT, m * K * FLOAT, z[0, j, i * across:].ctypes.data, n * plane, plane,
                            wide * FLOAT, 0, 0))


@inner
def _sums(tile, v, z, panels, squares, summed, more, first, u):
    """u (n * n, panels, C, wide) from v and z, summed over squares; added to what is there if `more`."""
    points, own, C, wide = u.shape
    for point in range(points):
        for j in range(own):
            g, k = divmod(first + j, panels[0])
            for t in range(0, squares, summed):
                b = z[point, j, t].ctypes.data
                multiply(tile, C, min(wide, panels[1] - k * wide), min(summed, squares - t),
                         (v[point, t, g * C:].ctypes.data, FLOAT, v.shape[2] * FLOAT), (b, wide * FLOAT),
                         (u[point, j].ctypes.data, wide * FLOAT), ACCUMULATE if more or t > 0 else 0, (b, 0, 0))


@jit
def _weights(weights, u, n, panels, first, dw):
    """Panels of u, from `first` on, to dw (R,S,C,K)."""
    (_, own, C, wide), (_, S, _, K) = u.shape, dw.shape
    plane = own * C * wide * FLOAT
    for j in range(own):
        g, k = divmod(first + j, panels[0])
        call(weights, (C, min(wide, panels[1] - k * wide), u[0, j].ctypes.data, n * plane, plane, wide * FLOAT,
                       dw[0, 0, 0, g * panels[1] + k * wide:].ctypes.data, S * C * K * FLOAT, C * K * FLOAT,
                       K * FLOAT, 0, 0))


@jit
def _wgrad(tile, data, gradient, x, dy, cut, panels, summed, first, begin, end, x_line, dy_line, v, z, u):
    """Panels from `first` on of u, by the lines from `begin` to `end`."""
    block = v.shape[1] // cut.across
    for start in range(begin, end, block):
        count = min(block, end - start)
        to_points(data, x, cut, start, count, x_line, v)
        _gradient(gradient, dy, cut, panels, start, count, dy_line, first, z)
        _sums(tile, v, z, panels, count * cut.across, summed, start > begin, first, u)


def _by_panels(sums, panels, lines, shape, finish):
    """Let sums(first, last, 0, lines, u) fill panels of u for each thread, and `finish` them."""
    def work(first, last):
        u = scratch.array("u", (shape[0], last - first, *shape[1:]))
        sums(first, last, 0, lines, u)
        finish(first, u)

    parallel_for(panels, work)


def _by_lines(sums, panels, lines, shape, finish):
    """The same for parts of the lines; what they sum up to is added in their order."""
    parts = min(PARTS, lines)
    shares = scratch.array("shares", (parts, shape[0], panels, *shape[1:]))

    def work(first, last):
        for part in range(first, last):
            sums(0, panels, lines * part // parts, lines * (part + 1) // parts, shares[part])

    parallel_for(parts, work)
    with np.errstate(all="ignore"):  # behind the last channel there may be anything
        total = shares.sum(0)
    finish(0, total)


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw.

    Every thread has panels of its own, and all points of x; or where they are few and small, a part of the lines.
    """
    s, groups = geometry.stride[0], geometry.groups
    r = -(-len(dw) // s)
    cut = cut_into_squares(r, s, geometry.padding, *dy.shape[1:3])
    m, n, tile, K = cut.m, cut.n, micro.tile(), dy.shape[3]
    data, gradient, weights = (transform(kind, m, r) for kind in (DATA, GRADIENT, WEIGHTS))
    channels = x.shape[3] * s * s
    Cg, panels = channels // groups, (-(-K // groups // tile.columns), K // groups)
    whole = dw if s == 1 else scratch.array("w", (r, r, Cg, K))
    # every block reads and writes all of u: where that is more than the block's own points, blocks are large
    squares = cut.across * lines_of(cut, len(x), channels + K, FAR if n * n * Cg * K > NEAR else 2 * NEAR)

    def sums(first, last, begin, end, u):
        _wgrad(tile, data, gradient, x, dy, cut, panels, SUMMED[n], first, begin, end,
               scratch.array("line", (n, cut.across * m + n - m, channels)),
               scratch.array("edge", (m, cut.across * m, K)),
               scratch.array("v", (n * n, squares, padded_length(channels))),
               scratch.array("z", (n * n, last - first, squares, tile.columns)), u)

    few, lines = groups * panels[0] <= PARTS, len(dy) * cut.down
    way = _by_lines if few and PARTS**2 * Cg * K <= lines * cut.across * (channels + K) else _by_panels
    way(sums, groups * panels[0], lines, (n * n, Cg, tile.columns),
        lambda first, u: _weights(weights, u, n, panels, first, whole))
    if s > 1:
        dw[:] = _fold(whole, s, dw.shape)
