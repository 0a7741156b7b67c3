"""Pooling on channels-last arrays; every inner loop runs over neighbouring floats.

rows and columns are geometry.Axis. Outputs are written in full, whatever they held. No inner loop calls a function
with arrays: to pass views costs more than to pool a pixel.
"""

import numpy as np

from kernels import compiled
from kernels.bfloat16 import narrow, rounded, widen
from kernels.hints import prefetch, restrict
from kernels.progress import tick
from kernels.threads import parallel_for

jit, inner = compiled.decorators()
NANS = True  # what is passed where there are NaNs; else None, a type of its own, so that there is code for each
ZERO = np.float32(0)
NUMBER, INFINITY = np.int32(2**31 - 1), np.int32(0x7F800000)  # all bits but the sign, and those of infinity


def maxpool2d(x, rows, columns, y, index):
    """Write the maximum of each window to y and the number of its tap to index."""
    images, C = [_lined_up(array) for array in (x, y, index)], x.shape[3]

    def work(a, b):
        part = *(image[a:b] for image in images), rows, columns, C
        if not _maxpool2d(*part, None):
            _maxpool2d(*part, NANS)

    parallel_for(len(x), work)


def maxpool2d_backward(dy, index, rows, columns, dx):
    """Write to dx the sum of the dy of the windows each input won: it reads much to write once, and in order."""
    if dx.dtype == np.uint16:  # sums are float32
        rounded(lambda target: maxpool2d_backward(dy, index, rows, columns, target), dx)
        return
    images, C = [_lined_up(array) for array in (dy, index, dx)], dx.shape[3]
    parallel_for(len(dy), lambda a, b: _maxpool2d_backward(*(image[a:b] for image in images), rows, columns, C))


def avgpool2d(x, rows, columns, y):
    """Write the average of each window to y."""
    if y.dtype == np.uint16:
        rounded(lambda target: avgpool2d(x, rows, columns, target), y)
        return
    parallel_for(len(x), lambda a, b: _avgpool2d(x[a:b], rows, columns, y[a:b]))


def avgpool2d_backward(dy, rows, columns, dx):
    """Write to dx the sum of each input's shares of dy."""
    if dx.dtype == np.uint16:
        rounded(lambda target: avgpool2d_backward(dy, rows, columns, target), dx)
        return
    parallel_for(len(dy), lambda a, b: _avgpool2d_backward(dy[a:b], rows, columns, dx[a:b]))


def _lined_up(images):
    """(N,H,W,C) as (N,H,W*C)."""
    return images.reshape(*images.shape[:2], -1)


@jit
def _maxpool2d(x, y, index, rows, columns, C, nans):
    """Whether it came to its end; without `nans` it gives up at the first NaN."""
    (N, P, size), R = y.shape, rows.window
    # Every row of x is reduced along itself once; then whole rows of maxima, R at most, are compared.
    best, winner = _lines(R, size), np.empty((R, size), np.uint8)
    for n in range(N):
        ready = 0
        for p in range(P):
            for h in range(max(ready, rows.begin[p]), rows.end[p]):
                row, slot = x[n, h], h % R
                if nans is None and not _no_nan(row):
                    return False
                _along(row, columns, C, nans, best[slot], winner[slot])
            ready = rows.end[p]
            _down(best, winner, rows, columns, p, nans, y[n, p], index[n, p])
            tick(size)
    return True


@inner
def _lines(count, size):
    """An empty array of rows that begins with a cache line: a vector across two of them costs twice as much."""
    memory = np.empty(count * size + 16, np.float32)
    skip = -memory.ctypes.data % 64 // 4
    return memory[skip:skip + count * size].reshape(count, size)


@inner
def _no_nan(row):
    most = np.int32(0)
    for i in range(row.size):  # as ints without their sign NaNs are above infinity, and ints have a vector maximum
        most = max(most, np.int32(np.float32(widen(row[i])).view(np.int32) & NUMBER))
    return most <= INFINITY


@inner
def _along(row, columns, C, nans, best, winner):
    """The maxima of one row's windows, three taps in a pass."""
    best, winner, C, Q = restrict(best), restrict(winner), np.uintp(C), len(columns.start)
    share = row.size // Q
    for q in range(Q):
        _ahead(row, q * share, share, 16)
        begin, last, to = columns.begin[q], columns.end[q] - 1, np.uintp(q) * C
        for i in range(begin, last + 1, 3):
            j, k = min(i + 1, last), min(i + 2, last)  # the last tap again, where there is no next one
            at_i, at_j, at_k = np.uintp(i) * C, np.uintp(j) * C, np.uintp(k) * C
            tap_i, tap_j, tap_k = _taps(i, j, k, columns.start[q], 1)
            for c in range(C):
                top, won = widen(row[at_i + c]), tap_i
                if i > begin:
                    top, won = _larger(best[to + c], winner[to + c], top, won, nans)
                top, won = _larger(top, won, widen(row[at_j + c]), tap_j, nans)
                best[to + c], winner[to + c] = _larger(top, won, widen(row[at_k + c]), tap_k, nans)


@inner
def _ahead(row, start, count, line):
    """Have memory bring a part of the row after this one, while this one is worked on; `line` elements at a time."""
    for i in range(start, start + count, line):
        prefetch(row, row.size + i)


@inner
def _down(best, winner, rows, columns, p, nans, y, index):
    """The maxima of the rows of maxima of one row of windows, three rows in a pass."""
    R, begin, last = rows.window, rows.begin[p], rows.end[p] - 1
    for i in range(begin, last + 1, 3):
        j, k = min(i + 1, last), min(i + 2, last)
        at_i, at_j, at_k = np.uintp(i % R), np.uintp(j % R), np.uintp(k % R)
        tap_i, tap_j, tap_k = _taps(i, j, k, rows.start[p], columns.window)
        for c in range(np.uintp(y.size)):
            top, won = best[at_i, c], np.uint8(tap_i + winner[at_i, c])
            if i > begin:
                top, won = _larger(widen(y[c]), index[c], top, won, nans)
            top, won = _larger(top, won, best[at_j, c], np.uint8(tap_j + winner[at_j, c]), nans)
            top, won = _larger(top, won, best[at_k, c], np.uint8(tap_k + winner[at_k, c]), nans)
            y[c], index[c] = narrow(top, y), won


@inner
def _taps(i, j, k, start, step):
    return np.uint8((i - start) * step), np.uint8((j - start) * step), np.uint8((k - start) * step)


@inner
def _larger(top, tap, value, its_tap, nans):
    """The earlier of equals, and of any number and a NaN the NaN, where there may be some."""
    better = value > top if nans is None else (not value <= top) & (top == top)
    return (value if better else top), (its_tap if better else tap)


@jit
def _maxpool2d_backward(dy, index, dx, rows, columns, C):
    down, across = _reach(rows), _reach(columns)
    for n in range(dx.shape[0]):
        for h in range(dx.shape[1]):
            row, first, end = dx[n, h], down[h, 0], down[h, 1]
            if first == end:
                row[:] = 0
            for p in range(first, end):
                tap = (h - rows.start[p]) * columns.window
                _collect(dy[n, p], index[n, p], columns, across, C, tap, p > first, row)
            tick(row.size)


@inner
def _reach(axis):
    """The windows first <= o < end that each pixel is in, as (pixels, 2)."""
    size, outputs, window, stride, before = axis.numbers[:5]
    reach = np.empty((size, 2), np.intp)
    for i in range(size):
        reach[i, 0] = min(outputs, max(0, (i + before - window + stride) // stride))
        reach[i, 1] = min(outputs, (i + before) // stride + 1)
    return reach


@inner
def _collect(dy, index, columns, across, C, tap, more, row):
    """Write to one row, or with `more` add to it, what it won in one row of windows, three of them in a pass."""
    row, start, last, size, C = restrict(row), columns.start, len(columns.start) - 1, C, np.uintp(C)
    for w in range(len(across)):
        first, end, here, to = across[w, 0], across[w, 1], tap + w, np.uintp(w) * C
        if not more:
            _ahead(row, w * size, size, 16)
        if tap == 0 and w <= last:  # the first pixels that read this row of windows
            _ahead(dy, w * size, size, 16)
            _ahead(index, w * size, size, 64)
        for q in range(first, max(end, first + 1), 3):
            i, j, k = min(q, last), min(q + 1, last), min(q + 2, last)
            at_i, at_j, at_k = np.uintp(i) * C, np.uintp(j) * C, np.uintp(k) * C
            tap_i, tap_j, tap_k = np.uint8(here - start[i]), np.uint8(here - start[j]), np.uint8(here - start[k])
            add, has_i, has_j, has_k = more or q > first, q < end, q + 1 < end, q + 2 < end
            for c in range(C):
                total = row[to + c] if add else ZERO
                total += widen(dy[at_i + c]) if has_i & (index[at_i + c] == tap_i) else ZERO
                total += widen(dy[at_j + c]) if has_j & (index[at_j + c] == tap_j) else ZERO
                total += widen(dy[at_k + c]) if has_k & (index[at_k + c] == tap_k) else ZERO
                row[to + c] = total


@jit
def _avgpool2d(x, rows, columns, y):
    N, P, Q, C = y.shape
    for n in range(N):
        for p in range(P):
            for q in range(Q):
                y[n, p, q] = 0
                for h in range(rows.begin[p], rows.end[p]):
                    for w in range(columns.begin[q], columns.end[q]):
                        for c in range(C):
                            y[n, p, q, c] += widen(x[n, h, w, c])
                taps = np.float32(rows.count[p] * columns.count[q])
                for c in range(C):
                    y[n, p, q, c] /= taps
            tick(Q * C)


@jit
def _avgpool2d_backward(dy, rows, columns, dx):
    N, P, Q, C = dy.shape
    for n in range(N):
        dx[n] = 0
        for p in range(P):
            for q in range(Q):
                share = np.float32(1 / (rows.count[p] * columns.count[q]))
                for h in range(rows.begin[p], rows.end[p]):
                    for w in range(columns.begin[q], columns.end[q]):
                        for c in range(C):
                            dx[n, h, w, c] += share * widen(dy[n, p, q, c])
            tick(Q * C)
