"""What every public signature checks before any memory is touched; each failure names the operation."""

import numpy as np


def shape(array):
    """The shape as users write it: (2,8,8,3)."""
    return "(" + ",".join(map(str, array.shape)) + ")"


def require(condition, operation, message):
    """Raise ValueError `operation: message` unless the condition holds."""
    if not condition:
        raise ValueError(f"{operation}: {message}")


def tensor(operation, name, value, axes, dtype=np.float32):
    """A C-contiguous array of the given dtype with one dimension for each letter of `axes`, none of them empty.

    Non-contiguous input is copied. Raises ValueError for anything else.
    """
    legend = f"({','.join(axes)}) {np.dtype(dtype).name}"
    require(isinstance(value, np.ndarray), operation, f"{name} must be an array {legend}, got {type(value).__name__}")
    got = f"{shape(value)} {value.dtype.name}"
    require(value.dtype == dtype and value.ndim == len(axes), operation, f"{name} must be {legend}, got {got}")
    require(value.size > 0, operation, f"{name} {got} is empty")
    return np.ascontiguousarray(value)


def output(operation, out, wanted):
    """A float32 array of shape `wanted` to write into: `out` itself if it fits, a new one if it is None."""
    if out is None:
        return np.empty(wanted, np.float32)
    fits = isinstance(out, np.ndarray) and out.dtype == np.float32 and out.shape == tuple(wanted)
    require(fits and out.flags.c_contiguous and out.flags.writeable, operation,
            f"out must be a writeable, C-contiguous float32 array of shape {tuple(wanted)}")
    return out


def pair(operation, name, value, least=1):
    """(rows, columns) from an int or a pair of ints, each at least `least`."""
    both = (value, value) if np.ndim(value) == 0 else tuple(value)
    good = len(both) == 2 and all(isinstance(v, int | np.integer) and v >= least for v in both)
    require(good, operation, f"{name} must be an int or a pair of ints of at least {least}, got {value!r}")
    return int(both[0]), int(both[1])


def padding(operation, value):
    """((top, bottom), (left, right)) from an int, a pair (rows, columns) or two pairs."""
    if np.ndim(value) == 2:
        require(len(value) == 2, operation, f"padding must be an int, a pair or two pairs, got {value!r}")
        return pair(operation, "padding", value[0], 0), pair(operation, "padding", value[1], 0)
    rows, columns = pair(operation, "padding", value, 0)
    return (rows, rows), (columns, columns)
