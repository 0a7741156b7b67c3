"""Pooling, one window at a time; rows and columns as in geometry.Axis."""

import numpy as np


def _windows(rows, columns):
    """((p, q), region of the input) for every output position."""
    for p, q in np.ndindex(len(rows.start), len(columns.start)):
        yield (p, q), np.s_[:, rows.begin[p]:rows.end[p], columns.begin[q]:columns.end[q]]


def _empty(x, rows, columns, dtype):
    return np.empty((x.shape[0], len(rows.start), len(columns.start), x.shape[3]), dtype)


def maxpool2d(x, rows, columns):
    """(y, index); argmax takes the first of equals, and the first NaN over any number."""
    y, index = _empty(x, rows, columns, x.dtype), _empty(x, rows, columns, np.uint8)
    for (p, q), region in _windows(rows, columns):
        patch = x[region]
        h, w = np.unravel_index(patch.reshape(len(x), -1, x.shape[3]).argmax(1), patch.shape[1:3])
        y[:, p, q] = patch[np.arange(len(x))[:, None], h, w, np.arange(x.shape[3])]
        r, s = h + rows.begin[p] - rows.start[p], w + columns.begin[q] - columns.start[q]
        index[:, p, q] = r * columns.window + s
    return y, index


def maxpool2d_backward(dy, index, x_shape, rows, columns):
    """Each dy goes to the tap that won."""
    dx = np.zeros(x_shape, dy.dtype)
    n, p, q, c = np.indices(dy.shape)
    r, s = np.divmod(index.astype(int), columns.window)
    np.add.at(dx, (n, rows.start[p] + r, columns.start[q] + s, c), dy)
    return dx


def avgpool2d(x, rows, columns):
    """Sum of each window over its count."""
    y = _empty(x, rows, columns, x.dtype)
    for (p, q), region in _windows(rows, columns):
        y[:, p, q] = x[region].sum((1, 2)) / (rows.count[p] * columns.count[q])
    return y


def avgpool2d_backward(dy, x_shape, rows, columns):
    """Each dy goes to its whole window in equal parts."""
    dx = np.zeros(x_shape, dy.dtype)
    for (p, q), region in _windows(rows, columns):
        dx[region] += dy[:, p, q][:, None, None] / (rows.count[p] * columns.count[q])
    return dx
