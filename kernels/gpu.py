"""CuPy's arrays, and CUDA C++ kernels on them: how a room's source is compiled and launched.

A kernel is compiled when it is first wanted, for the constants it is wanted with, and kept on disk by CuPy. CuPy is
imported when somebody brings an array of its kind, or asks for one.
"""

import functools
import re
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
INCLUDE = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)
OPTIONS = ("-std=c++17", "-default-device")
HOPPER = ("-arch=sm_90a",)  # for sources with the macro WGMMA: instructions of that architecture alone
STATIC = 48 << 10  # bytes of shared memory that a block has without being asked for, declared in the source or not
PRECISIONS = ("float32", "tf32")

_precision = "float32"


def set_precision(name):
    """How products of float32 arrays on the GPU are computed from here on: float32, or with operands of tf32.

    tf32 has float32's range and 10 bits of fraction; sums are float32. Raises ValueError for another name.
    """
    global _precision
    if name not in PRECISIONS:
        raise ValueError(f"set_precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")
    _precision = name


def precision():
    """float32 or tf32: what set_precision was last given."""
    return _precision


def cupy():
    """CuPy's module, imported here if it has not been."""
    import cupy

    return cupy


def missing():
    """What keeps this process from using a GPU, in words, or None."""
    try:
        count = cupy().cuda.runtime.getDeviceCount()
    except ImportError as error:
        return f"CuPy cannot be imported ({' '.join(str(error).split())}) | try: pip install 'mpilayer[gpu]'"
    except Exception as error:  # CuPy's errors are of no kind that is known without it
        return f"CuPy finds no GPU ({error}) | try: nvidia-smi"
    return None if count else "CuPy finds no GPU | try: nvidia-smi"


def is_array(value):
    """Whether it is CuPy's array; if CuPy has not been imported, nobody has one."""
    library = sys.modules.get("cupy")
    return library is not None and isinstance(value, getattr(library, "ndarray", ()))


def address(array):
    """The address of an array's first element, in this computer's memory or the GPU's."""
    return array.data.ptr if is_array(array) else array.__array_interface__["data"][0]  # array.ctypes is slow to make


def fetch(array):
    """The array itself if it is NumPy's, else a copy in this computer's memory; bfloat16 becomes float32."""
    array = array.get() if is_array(array) else array
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def bfloat16():
    """NumPy's dtype bfloat16, from ml_dtypes."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def source(room, constants=()):
    """The CUDA C++ of a room, for macros ((name, value), ...), as one text, by which CuPy's cache knows it.

    What it includes from kernels/cuda is put in its place; macros are defined in it, for -D would define them in the
    compiler's own headers, too. For a room elsewhere its absolute path is given.
    """
    def included(match):
        return (HERE / "cuda" / match[1]).read_text()

    text = (HERE / room / "cuda.cu").read_text()
    while INCLUDE.search(text):
        text = INCLUDE.sub(included, text)
    return "\n".join([*(f"#define {name} {value}" for name, value in constants), text])


def options(constants):
    """The compiler's, for a source with these macros."""
    return OPTIONS + HOPPER if ("WGMMA", 1) in constants else OPTIONS


@functools.cache
def has_wgmma():
    """Whether the current GPU is a Hopper (H100, H200), whose tensor cores read shared memory by themselves."""
    return cupy().cuda.Device().compute_capability == "90"


@functools.cache
def _module(room, constants):
    return cupy().RawModule(code=source(room, constants), options=options(constants))


@functools.cache
def kernel(room, name, constants=(), shared=0):
    """A kernel of a room, its source's macros set to ((name, value), ...), that may have `shared` bytes of memory
    besides what its source declares.
    """
    function = _module(room, constants).get_function(name)
    if shared + function.shared_size_bytes > STATIC:  # never less than before: it is one kernel for all who launch it
        function.max_dynamic_shared_size_bytes = max(shared, function.max_dynamic_shared_size_bytes)
    return function


_int32 = functools.lru_cache(1 << 12)(np.int32)  # a convolution has thirty of them, and NumPy takes its time


def _argument(value):
    """As a kernel takes it: arrays, and scalars of NumPy's types; a Python int is an int, a float a float."""
    kind = type(value)
    if kind is int or kind is bool:
        return _int32(value)
    return np.float32(value) if kind is float else value


def launch(room, name, grid, block, *arguments, shared=0, **constants):
    """Run a kernel of kernels/ROOM/cuda.cu on the current stream; room may also be the absolute path of a folder.

    grid, block   blocks and threads, ints or tuples           arguments   None is a null pointer
    shared        bytes of dynamic shared memory of a block    constants   macros that the source is compiled with
    """
    function = kernel(room, name, tuple(sorted(constants.items())), shared)
    grid, block = ((size,) if isinstance(size, int) else size for size in (grid, block))
    function(grid, block, tuple(np.uint64(0) if a is None else _argument(a) for a in arguments), shared_mem=shared)


def number(array):
    """The C++ type of an array's elements."""
    return {"float32": "float", "float64": "double"}.get(array.dtype.name, array.dtype.name)


def pack(size, *arrays):
    """How many numbers a thread moves at a time: 16 bytes' worth of the first array's where rows of so many numbers
    and all addresses allow it, else 1. None is no array.
    """
    numbers = 16 // arrays[0].itemsize
    return numbers if size % numbers == 0 and all(a is None or a.data.ptr % 16 == 0 for a in arrays) else 1


@functools.cache
def multiprocessors():
    """How many multiprocessors the current GPU has."""
    return cupy().cuda.Device().attributes["MultiProcessorCount"]
