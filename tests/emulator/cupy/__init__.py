"""A stand-in for CuPy that runs CUDA C++ kernels on the CPU, for tests on machines without a GPU.

It has what this project uses of CuPy 14, under the same names and as strict as there. `cupy.emulator` is the only thing
the real one lacks: how the emulated device behaves.
"""

from cupy import cuda, emulator
from cupy.emulator import functions as _functions
from cupy.emulator.arrays import ndarray
from cupy.emulator.functions import (
    arange,
    array,
    asarray,
    ascontiguousarray,
    asnumpy,
    copyto,
    empty,
    empty_like,
    full,
    full_like,
    get_array_module,
    may_share_memory,
    ones,
    ones_like,
    shares_memory,
    zeros,
    zeros_like,
)
from cupy.emulator.kernels import RawKernel, RawModule
from numpy import (
    bool_,
    dtype,
    e,
    finfo,
    float16,
    float32,
    float64,
    iinfo,
    inf,
    int8,
    int16,
    int32,
    int64,
    nan,
    newaxis,
    pi,
    uint8,
    uint16,
    uint32,
    uint64,
)

__version__ = "14.2.0"

for _name in _functions.APPLIED:
    if _name not in globals():
        globals()[_name] = _functions.applied(_name)


def get_default_memory_pool():
    """The pool of device memory."""
    return cuda.MemoryPool()


def get_default_pinned_memory_pool():
    """The pool of pinned memory."""
    return cuda.PinnedMemoryPool()


def copy(a, order="K"):
    """A copy on the device."""
    return a.copy(order)


def result_type(*args):
    """The type of what these would make together."""
    return _functions.MINE["result_type"](*args)


__all__ = [
    "RawKernel", "RawModule", "arange", "array", "asarray", "ascontiguousarray", "asnumpy", "bool_", "copy", "copyto",
    "cuda", "dtype", "e", "empty", "empty_like", "emulator", "finfo", "float16", "float32", "float64", "full",
    "full_like", "get_array_module", "get_default_memory_pool", "get_default_pinned_memory_pool", "iinfo", "inf",
    "int16", "int32", "int64", "int8", "may_share_memory", "nan", "ndarray", "newaxis", "ones", "ones_like", "pi",
    "result_type", "shares_memory", "uint16", "uint32", "uint64", "uint8", "zeros", "zeros_like",
]
