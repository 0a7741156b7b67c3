"""Pooling on channels-last arrays; every inner loop runs over neighbouring floats.

rows and columns are geometry.Axis. Outputs are written in full, whatever they held.
"""

import numpy as np
from numba import njit

jit = njit(nogil=True, cache=True, error_model="numpy")


@jit
def maxpool2d(x, rows, columns, y, index):
    """Write the maximum of each window to y and the number of its tap to index."""
    N, P, Q, C = y.shape
    R = rows.window
    # Every row of x is reduced along itself once; then whole rows of maxima, R at most, are compared.
    best, winner = np.empty((R, Q, C), np.float32), np.empty((R, Q, C), np.uint8)
    for n in range(N):
        ready = 0
        for p in range(P):
            for h in range(max(ready, rows.begin[p]), rows.end[p]):
                _along(x[n, h], columns, best[h % R], winner[h % R])
            ready = rows.end[p]
            for h in range(rows.begin[p], rows.end[p]):
                tap, first = np.uint8((h - rows.start[p]) * columns.window), h == rows.begin[p]
                top, won = best[h % R].ravel(), winner[h % R].ravel()
                _down(top, won, tap, first, y[n, p].ravel(), index[n, p].ravel())


@jit
def _along(x, columns, best, winner):
    """The maxima of one row's windows, three taps in a pass."""
    Q, C = best.shape
    for q in range(Q):
        begin, last = columns.begin[q], columns.end[q] - 1
        for a in range(begin, last + 1, 3):
            b, c = min(a + 1, last), min(a + 2, last)  # the last tap again, where there is no next one
            start = columns.start[q]
            tap_a, tap_b, tap_c = np.uint8(a - start), np.uint8(b - start), np.uint8(c - start)
            for k in range(C):
                top, tap = x[a, k], tap_a
                if a > begin:
                    top, tap = _larger(best[q, k], winner[q, k], top, tap)
                top, tap = _larger(top, tap, x[b, k], tap_b)
                best[q, k], winner[q, k] = _larger(top, tap, x[c, k], tap_c)


@jit
def _down(best, winner, tap, first, y, index):
    """Fold one row of maxima, whose taps start at `tap`, into a row of y and index."""
    for i in range(y.size):
        top, won = best[i], np.uint8(tap + winner[i])
        if not first:
            top, won = _larger(y[i], index[i], top, won)
        y[i], index[i] = top, won


@jit
def _larger(top, tap, value, its_tap):
    """The earlier of equals, and of any number and a NaN the NaN."""
    better = (not value <= top) & (top == top)
    return (value if better else top), (its_tap if better else tap)


@jit
def maxpool2d_backward(dy, index, rows, columns, dx):
    """Write to dx the sum of the dy of the windows each input won; index stays below the number of taps."""
    N, P, Q, C = dy.shape
    W = dx.shape[2]
    target = np.empty(256, np.int64)
    for n in range(N):
        image = dx[n].ravel()
        image[:] = 0
        for p in range(P):
            for q in range(Q):
                _aim(rows, columns, p, q, W, C, target)
                for c in range(C):
                    image[target[index[n, p, q, c]] + c] += dy[n, p, q, c]


@jit
def _aim(rows, columns, p, q, W, C, target):
    """Where each tap's pixel begins; the taps in the padding, which cannot have won, are moved inside too."""
    for r in range(rows.window):
        h = min(max(rows.start[p] + r, rows.begin[p]), rows.end[p] - 1)
        for s in range(columns.window):
            w = min(max(columns.start[q] + s, columns.begin[q]), columns.end[q] - 1)
            target[r * columns.window + s] = (h * W + w) * C


@jit
def avgpool2d(x, rows, columns, y):
    """Write the average of each window to y."""
    N, P, Q, C = y.shape
    for n in range(N):
        for p in range(P):
            for q in range(Q):
                y[n, p, q] = 0
                for h in range(rows.begin[p], rows.end[p]):
                    for w in range(columns.begin[q], columns.end[q]):
                        for c in range(C):
                            y[n, p, q, c] += x[n, h, w, c]
                taps = np.float32(rows.count[p] * columns.count[q])
                for c in range(C):
                    y[n, p, q, c] /= taps


@jit
def avgpool2d_backward(dy, rows, columns, dx):
    """Write to dx the sum of each input's shares of dy."""
    N, P, Q, C = dy.shape
    for n in range(N):
        dx[n] = 0
        for p in range(P):
            for q in range(Q):
                share = np.float32(1 / (rows.count[p] * columns.count[q]))
                for h in range(rows.begin[p], rows.end[p]):
                    for w in range(columns.begin[q], columns.end[q]):
                        for c in range(C):
                            dx[n, h, w, c] += share * dy[n, p, q, c]
