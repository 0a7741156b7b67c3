"""What every public signature checks before any memory is touched; each failure names the operation.

An array is NumPy's, or on the GPU CuPy's. Activations, what flows from layer to layer, are float32 or
bfloat16; everything else is float32.
"""

import functools
import importlib
from types import SimpleNamespace

import numpy as np

from kernels import gpu
from kernels.bfloat16 import bits
from kernels.layout import empty

ACTIVATION = "float32 or bfloat16"  # in the place of a dtype


def is_array(value):
    """Whether it is an array, NumPy's or CuPy's."""
    return isinstance(value, np.ndarray) or gpu.is_array(value)


def implementation(package, operation, *arrays):
    """The module cpu of a room's package, or cuda if the arrays are on the GPU; None is no array.

    Raises ValueError if some arrays are NumPy's and some are on the GPU.
    """
    kinds = {gpu.is_array(array) for array in arrays if array is not None}
    require(len(kinds) == 1, operation, "the arrays must all be NumPy's, or all on the GPU")
    if kinds == {True}:
        return _module(package, "cuda")
    short = any(array is not None and array.dtype.name == "bfloat16" for array in arrays)
    return _short_module(package) if short else _module(package, "cpu")


@functools.cache
def _module(package, name):
    return importlib.import_module(f"{package}.{name}")


class _ShortModule:
    """A room's module cpu, whose functions are given bfloat16's bits, as uint16."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        function = getattr(self.module, name)
        return lambda *given: function(*(bits(each) if isinstance(each, np.ndarray) else each for each in given))


@functools.cache
def _short_module(package):
    return _ShortModule(_module(package, "cpu"))


def _show(value):
    """An array as users write its shape, (2,8,8,3); anything else as it is."""
    return "(" + ",".join(map(str, value.shape)) + ")" if is_array(value) else value


def require(condition, operation, message, *values):
    """Raise ValueError `operation: message` unless the condition holds; the values fill the message's braces."""
    if not condition:
        raise ValueError(f"{operation}: {message.format(*map(_show, values))}")


def _found(value):
    """An argument as error messages show it: shape and dtype, or its type."""
    return f"{_show(value)} {value.dtype}" if is_array(value) else type(value).__name__


def _is(value, dtype):
    """Whether it is an array of that dtype."""
    if not is_array(value):
        return False
    if dtype is ACTIVATION:
        return value.dtype == np.float32 or value.dtype.name == "bfloat16"
    return value.dtype == dtype


def _dtype_name(dtype):
    return dtype if dtype is ACTIVATION else np.dtype(dtype)


def _contiguous(value):
    """The array itself, or a copy in C order; on the CPU one that Numba takes for writeable."""
    if gpu.is_array(value):
        return gpu.cupy().ascontiguousarray(value)
    value = np.asarray(value, order="C")
    return value if value.flags.writeable else _unlocked(value)


def _unlocked(array):
    """The same memory for kernels, which only read it: Numba would compile them once more for read-only arrays."""
    memory = array.__array_interface__ | {"data": (array.ctypes.data, False)}
    return np.asarray(SimpleNamespace(__array_interface__=memory, array=array)).view(array.dtype)


def array(operation, name, value, dtype=np.float32):
    """A C-contiguous array of any shape and the given dtype, not empty. Raises ValueError for anything else."""
    if not (_is(value, dtype) and value.size > 0):
        require(False, operation, "{} must be a non-empty {} array, got {}", name, _dtype_name(dtype), _found(value))
    return _contiguous(value)


def tensor(operation, name, value, axes, dtype=np.float32):
    """A C-contiguous array of the given dtype with one dimension for each letter of `axes`, none of them empty.

    Non-contiguous input is copied. Raises ValueError for anything else.
    """
    if not (_is(value, dtype) and value.ndim == len(axes)):
        wanted = f"({','.join(axes)}) {_dtype_name(dtype)}"
        require(False, operation, "{} must be {}, got {}", name, wanted, _found(value))
    require(value.size > 0, operation, "{} {} is empty", name, value)
    return _contiguous(value)


def weights(operation, name, value, axes, x):
    """As `tensor`, of float32 or x's dtype."""
    return tensor(operation, name, value, axes, x.dtype if _is(value, x.dtype) else np.float32)


def writeable(value):
    """Whether an array may be written to; on the GPU every one may."""
    return gpu.is_array(value) or value.flags.writeable


def overlap(a, b):
    """Whether two arrays may share memory."""
    return (np if isinstance(a, np.ndarray) else gpu.cupy()).may_share_memory(a, b)


def output(operation, out, wanted, dtype=np.float32, *, like, apart=()):
    """An array of shape `wanted` to write into: `out` itself if it fits, a new one where `like` is if it is None.

    Raises ValueError if it does not fit, or may share memory with one of the arrays `apart`.
    """
    if out is None:
        return gpu.cupy().empty(wanted, dtype) if gpu.is_array(like) else empty(wanted, dtype)
    fits = _is(out, dtype) and gpu.is_array(out) == gpu.is_array(like) and out.shape == tuple(wanted)
    require(fits and out.flags.c_contiguous and writeable(out), operation,
            "out must be a writeable, C-contiguous {} array of shape {}", np.dtype(dtype), tuple(wanted))
    require(not any(overlap(out, other) for other in apart), operation,
            "out must not overlap what it is computed from")
    return out


def two_outputs(operation, out):
    """Both members of an `out` for two results, a pair; two None if it is None."""
    require(out is None or (isinstance(out, tuple | list) and len(out) == 2), operation,
            "out must be a pair of arrays, got {}", type(out).__name__)
    return out or (None, None)


def _whole(value, least):
    return isinstance(value, int | np.integer) and value >= least


def _sequence(value):
    return isinstance(value, tuple | list | np.ndarray)


def sizes(operation, name, value):
    """Four positive ints, the shape of an image or a filter."""
    good = _sequence(value) and len(value) == 4 and all(_whole(v, 1) for v in value)
    require(good, operation, "{} must be four positive sizes, got {!r}", name, value)
    return tuple(map(int, value))


def pair(operation, name, value, least=1):
    """(rows, columns) from an int or a pair of ints, each at least `least`."""
    both = tuple(value) if _sequence(value) else (value, value)
    good = len(both) == 2 and all(_whole(v, least) for v in both)
    require(good, operation, "{} must be an int or a pair of ints of at least {}, got {!r}", name, least, value)
    return int(both[0]), int(both[1])


def padding(operation, value):
    """((top, bottom), (left, right)) from an int, a pair (rows, columns) or two pairs."""
    if _sequence(value) and any(map(_sequence, value)):
        good = len(value) == 2 and all(map(_sequence, value))
        require(good, operation, "padding must be an int, a pair or two pairs, got {!r}", value)
        return pair(operation, "padding", value[0], 0), pair(operation, "padding", value[1], 0)
    rows, columns = pair(operation, "padding", value, 0)
    return (rows, rows), (columns, columns)
