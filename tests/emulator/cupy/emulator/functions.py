"""The functions of the module `cupy`."""

import numpy as np
from cupy.emulator.apply import apply, check, submit
from cupy.emulator.arrays import ndarray

NAMES = """
absolute abs add all allclose amax amin any argmax argmin argsort array_equal array_split bitwise_and bitwise_or
broadcast_to cbrt ceil clip concatenate cos count_nonzero cumsum divide dot einsum equal exp exp2 expand_dims expm1 flip
floor floor_divide greater greater_equal hstack isfinite isinf isnan left_shift less less_equal log log1p log2
logical_and logical_not logical_or matmul max maximum mean median min minimum moveaxis multiply negative not_equal outer
pad power prod ravel reciprocal remainder repeat reshape resize right_shift rint roll round sign sin split sqrt square
squeeze stack std subtract sum swapaxes take tanh tensordot tile transpose true_divide trunc var vstack where
"""
APPLIED = NAMES.split()  # of these, NumPy's function on the contents is all there is to do


def empty(shape, dtype=float, order="C"):
    """A poisoned array."""
    return ndarray(shape, dtype, order=order)


def full(shape, fill_value, dtype=None, order="C"):
    """An array of one value."""
    check(fill_value)
    dtype = (fill_value.dtype if isinstance(fill_value, ndarray) else np.asarray(fill_value).dtype) \
        if dtype is None else dtype
    result = ndarray(shape, dtype, order=order)
    result[...] = fill_value
    return result


def zeros(shape, dtype=float, order="C"):
    """An array of zeros."""
    return full(shape, 0, dtype, order)


def ones(shape, dtype=float, order="C"):
    """An array of ones."""
    return full(shape, 1, dtype, order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    """A poisoned array of another's shape and type, unless given."""
    return ndarray(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def full_like(a, fill_value, dtype=None, order="K", subok=None, shape=None):
    """An array of one value, of another's shape and type, unless given."""
    result = empty_like(a, dtype, order, subok, shape)
    result[...] = fill_value
    return result


def zeros_like(a, dtype=None, order="K", subok=None, shape=None):
    """An array of zeros, of another's shape and type, unless given."""
    return full_like(a, 0, dtype, order, subok, shape)


def ones_like(a, dtype=None, order="K", subok=None, shape=None):
    """An array of ones, of another's shape and type, unless given."""
    return full_like(a, 1, dtype, order, subok, shape)


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    """A device array of the values of anything; those of the host are read at once."""
    if isinstance(obj, ndarray):
        if not copy and dtype in (None, obj.dtype) and (order != "C" or obj.flags.c_contiguous):
            return obj
        return obj.astype(obj.dtype if dtype is None else dtype, order=order)
    if isinstance(obj, list | tuple) and any(isinstance(part, ndarray) for part in obj):
        return apply(np.stack, list(obj))
    values = np.array(obj, dtype=dtype, order="C" if order == "K" else order, ndmin=ndmin)
    result = ndarray(values.shape, values.dtype, order="C" if values.flags.c_contiguous else "F")
    target = result._host
    submit(lambda: np.copyto(target, values))
    return result


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    """The array itself if it is one of the device, else a copy there."""
    return array(a, dtype, copy=bool(copy), order=order or "K")


def ascontiguousarray(a, dtype=None):
    """The array with its values one after another, itself if it is so."""
    return array(a, dtype, copy=False, order="C")


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    """A copy on the host."""
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a, order=order)


def arange(*args, **options):
    """As NumPy's, on the device."""
    return array(np.arange(*args, **options))


def copyto(dst, src, casting="same_kind", where=None):
    """Fill an array from another or with a value."""
    check(dst, src)
    if not np.can_cast(src.dtype if isinstance(src, ndarray) else type(src), dst.dtype, casting) \
            and not np.isscalar(src):
        raise TypeError(f"Cannot cast from {src.dtype} to {dst.dtype} by the rule {casting}")
    dst[... if where is None else where] = src


def may_share_memory(a, b, max_work=None):
    """Whether two arrays' bounds overlap."""
    return _both(np.may_share_memory, a, b)


def shares_memory(a, b, max_work=None):
    """Whether two arrays have a value in common."""
    return _both(np.shares_memory, a, b)


def _both(function, a, b):
    return isinstance(a, ndarray) and isinstance(b, ndarray) and function(a._host, b._host)


def get_array_module(*args):
    """The module `cupy` if any of these is a device array, else `numpy`."""
    import cupy
    return cupy if any(isinstance(value, ndarray) for value in args) else np


# What is not simply NumPy's function on the contents.
MINE = {"empty_like": empty_like, "zeros_like": zeros_like, "ones_like": ones_like, "full_like": full_like,
        "copyto": copyto, "may_share_memory": may_share_memory, "shares_memory": shares_memory,
        "copy": lambda a, order="K", subok=False: a.copy("C"), "ndim": lambda a: a.ndim, "shape": lambda a: a.shape,
        "size": lambda a, axis=None: a.size if axis is None else a.shape[axis],
        "result_type": lambda *args: np.result_type(*(arg.dtype if isinstance(arg, ndarray) else arg
                                                     for arg in args))}


def applied(name):
    """A function of the module `cupy` that is NumPy's on the contents."""
    function = getattr(np, name)

    def call(*args, **options):
        return apply(function, *args, **options)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"As numpy.{name}, on the device."
    return call
