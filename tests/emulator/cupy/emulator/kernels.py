"""Kernels of a source text: checked as strictly as a driver would, or more so, and run on the CPU."""

import copy

import numpy as np
from cupy import emulator
from cupy.cuda.driver import CUDADriverError
from cupy.emulator import build, streams
from cupy.emulator.arrays import ndarray
from cupy.emulator.memory import Memory, Stacks, where
from cupy.emulator.pointers import MemoryPointer

SHARED_AT_MOST = 227 << 10
MOST_THREADS, MOST_OF_BLOCK, MOST_OF_GRID = 1024, (1024, 1024, 64), (2**31 - 1, 65535, 65535)
KINDS = {"f": "f", "i": "iub", "s": "V", "p": "iu"}
WORDS = {"f": "a floating number", "i": "an integer", "s": "a struct", "p": "a pointer"}


class KernelError(RuntimeError):
    """What a kernel did that it must not, and which thread of it."""


class RawModule:
    """The kernels of a CUDA C++ source."""

    def __init__(self, code=None, *, path=None, options=(), backend="nvrtc", translate_cucomplex=False,
                 enable_cooperative_groups=False, name_expressions=None, jitify=None):
        if code is None or path is not None or name_expressions:
            raise NotImplementedError("the emulator runs sources with extern \"C\" kernels only")
        if not isinstance(options, tuple):
            raise TypeError(f"options must be a tuple, not {type(options).__name__}")
        self.code, self.options, self.backend = code, options, backend

    def compile(self, log_stream=None):
        """Compile now."""
        build.library(self.code, self.options)

    def get_function(self, name):
        """A kernel by its name."""
        found = build.library(self.code, self.options)
        if name not in found:
            raise CUDADriverError(500, f"named symbol not found: {name}; there are {sorted(found)}")
        return RawKernel._of(found[name], self)


class RawKernel:
    """A kernel. What is set of it holds for every other of the same name and source."""

    num_regs = local_size_bytes = const_size_bytes = 0

    def __init__(self, code, name, options=(), backend="nvrtc", **_):
        self._become(RawModule(code=code, options=options).get_function(name)._kernel, name)

    @classmethod
    def _of(cls, kernel, module):
        self = cls.__new__(cls)
        self._become(kernel, kernel.name)
        return self

    def _become(self, kernel, name):
        self._kernel, self.name = kernel, name
        self.max_threads_per_block, self.shared_size_bytes = kernel.bound, kernel.shared

    @property
    def max_dynamic_shared_size_bytes(self):
        """How much dynamic shared memory a launch may ask for."""
        return self._kernel.most_dynamic

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, value):
        if value + self._kernel.shared > SHARED_AT_MOST:
            raise CUDADriverError(1, f"{self.name}: {self._kernel.shared} and {value} bytes of shared memory, "
                                     f"a block has {SHARED_AT_MOST}")
        self._kernel.most_dynamic = value

    def compile(self, log_stream=None):
        """It is."""

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        grid, block = _three(self.name, "grid", grid, MOST_OF_GRID), _three(self.name, "block", block, MOST_OF_BLOCK)
        most = min(self._kernel.bound, MOST_THREADS)
        if block[0] * block[1] * block[2] > most:
            raise CUDADriverError(1, f"{self.name}: a block {block} has more than {most} threads")
        if not 0 <= shared_mem <= self._kernel.most_dynamic:
            raise CUDADriverError(1, f"{self.name}: {shared_mem} bytes of dynamic shared memory, "
                                     f"max_dynamic_shared_size_bytes is {self._kernel.most_dynamic}")
        values = arguments(self._kernel, args)
        behaviour, named = copy.copy(emulator.current), arrays(args)
        streams.put(lambda: launch(self._kernel, grid, block, shared_mem, behaviour, values, named), stream)


def _three(name, what, sizes, most):
    if not isinstance(sizes, tuple):
        raise TypeError(f"{name}: {what} must be a tuple, not {type(sizes).__name__}")
    sizes = (*map(int, sizes), 1, 1, 1)[:3]
    if not all(1 <= size <= limit for size, limit in zip(sizes, most, strict=True)):
        raise CUDADriverError(1, f"{name}: {what} is {sizes}")
    return sizes


def arguments(kernel, args):
    """The arguments as NumPy scalars of the parameters' sizes; raises what would go wrong silently on a GPU."""
    if len(args) != len(kernel.parameters):
        raise TypeError(f"{kernel.name} takes {len(kernel.parameters)} arguments, given are {len(args)}")
    return [_argument(f"{kernel.name}: argument {number}", arg, *parameter)
            for number, (arg, parameter) in enumerate(zip(args, kernel.parameters, strict=True))]


def _argument(place, arg, kind, size, alignment):
    if isinstance(arg, ndarray | MemoryPointer) or arg is None:
        if kind != "p":
            raise TypeError(f"{place} is an array, the kernel takes {WORDS[kind]}")
        address = 0 if arg is None else getattr(arg, "data", arg).ptr
        if address % alignment:
            raise ValueError(f"{place} begins at {address:#x}, which is not a multiple of {alignment}")
        return np.uint64(address)
    if isinstance(arg, np.ndarray) and (arg.ndim or arg.dtype.kind != "V"):
        raise TypeError(f"{place} is an array of the host")
    if not isinstance(arg, bool | int | float | np.generic | np.ndarray):
        raise TypeError(f"{place}: Unsupported type {type(arg)}")
    value = arg if isinstance(arg, np.generic | np.ndarray) else np.asarray(arg)[()]
    if value.dtype.kind not in KINDS[kind] or value.dtype.itemsize != size:
        raise TypeError(f"{place} is {value.dtype} of {value.dtype.itemsize} bytes, the kernel takes {WORDS[kind]} "
                        f"of {size} bytes")
    return value


def arrays(args):
    """(name, memory) of the arrays among the arguments."""
    names = ((number, arg) for number, arg in enumerate(args) if isinstance(arg, ndarray | MemoryPointer))
    return [(f"argument {number}, {arg.dtype} {arg.shape}", arg.data.mem) if isinstance(arg, ndarray)
            else (f"the memory of argument {number}", arg.mem) for number, arg in names]


def launch(kernel, grid, block, dynamic_bytes, behaviour, values, named):
    """Run all blocks, and look whether all is well afterwards."""
    shared = Memory(dynamic_bytes, "dynamic shared", 128)
    buffers = [np.array(value) for value in values]
    request = build.Request(grid, block, dynamic_bytes, Stacks.SIZE, shared.ptr, Stacks.address(), behaviour.order,
                            behaviour.early, behaviour.seconds)
    message = kernel.launch(request, [buffer.ctypes.data for buffer in buffers])
    over = [name for name, memory in [*named, ("dynamic shared memory", shared)] if memory.overrun()]
    if message:
        raise KernelError(f"kernel {message}{where(request.fault, named) if request.fault else ''}")
    if over:
        raise KernelError(f"kernel {kernel.name} wrote just outside {over[0]}, or the memory it is part of")
