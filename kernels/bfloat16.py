"""bfloat16 in compiled functions, for which Numba has no type: its bits, as uint16, by integer arithmetic."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from kernels import compiled, scratch
from kernels.progress import tick

INFINITY = np.uint32(0x7F80)  # as bfloat16: an exponent of ones, no fraction
QUIET = np.uint32(0x40)  # a bit of NaN's fraction that no rounding can carry away
HALF, SIGN, ODD, LOW = np.uint32(0x7FFF), np.uint32(0x8000), np.uint32(1), np.uint32(16)

jit, inner = compiled.decorators()


def bits(array):
    """The array, or of one of ml_dtypes.bfloat16 the same memory as uint16."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


@intrinsic
def _bits(typing, value):
    return types.uint32(types.float32), lambda context, builder, signature, values: builder.bitcast(
        values[0], ir.IntType(32))


@intrinsic
def _float(typing, value):
    return types.float32(types.uint32), lambda context, builder, signature, values: builder.bitcast(
        values[0], ir.FloatType())


@inner
def nearest(value):
    """The nearest bfloat16, ties to even: the carry goes on into the exponent, up to infinity."""
    bits = _bits(value)
    high = np.uint32(bits >> LOW)
    rounded = np.uint32(np.uint32(bits + np.uint32(HALF + np.uint32(high & ODD))) >> LOW)
    return np.uint16(rounded if value == value else high | QUIET)


def widen(number):
    """float32 of a float32, or of bfloat16's bits."""


@overload(widen)
def _widened(number):
    if number == types.float32:
        return lambda number: number
    return lambda number: _float(np.uint32(np.uint32(number) << LOW))


def short(number):
    """bfloat16's bits of a float32, the nearest, or of what they are already."""


@overload(short)
def _shortened(number):
    return (lambda number: nearest(number)) if number == types.float32 else (lambda number: number)


def narrow(value, out):
    """A float32 as `out` holds it."""


@overload(narrow)
def _narrowed(value, out):
    return (lambda value, out: value) if out.dtype == types.float32 else (lambda value, out: nearest(value))


def widened(name, x):
    """x, which is uint16, as float32 in working memory of that name."""
    found = scratch.array(name, x.shape)
    convert_rows(x.reshape(-1, x.shape[-1]), found.reshape(-1, x.shape[-1]))
    return found


def rounded(compute, *outputs):
    """Let compute(float32 arrays in place of the outputs) write those, and round them into the outputs, uint16."""
    found = [scratch.array(f"rounded {number}", out.shape) for number, out in enumerate(outputs)]
    compute(*found)
    for target, out in zip(found, outputs, strict=True):
        convert_rows(target.reshape(-1, out.shape[-1]), out.reshape(-1, out.shape[-1]))


@jit
def convert_rows(x, out):
    """out (M,K) = x (M,K), float32 and uint16 or the other way round."""
    for i in range(x.shape[0]):
        a, b = x[i], out[i]
        for e in range(a.size):
            b[e] = narrow(widen(a[e]), b)
        tick(a.size)
