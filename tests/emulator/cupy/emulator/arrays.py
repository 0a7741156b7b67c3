"""The stand-in for `cupy.ndarray`: as strict as the real one, with its contents in memory of the emulated device."""

import operator

import numpy as np
from cupy.emulator import streams
from cupy.emulator.apply import apply, check, host, submit, wrap
from cupy.emulator.memory import POISON, pinned
from cupy.emulator.pointers import MemoryPointer, allocate

IMPLICIT = ("Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly.")


class Flags:
    """What is known of an array's layout."""

    def __init__(self, flags, owndata):
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, owndata

    def __getitem__(self, name):
        return {"C_CONTIGUOUS": self.c_contiguous, "F_CONTIGUOUS": self.f_contiguous, "OWNDATA": self.owndata}[name]


class ndarray:  # noqa: N801 - the name of the real one
    """An array on the device."""

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        dtype = np.dtype(dtype)
        if dtype.kind not in "biufcV" or dtype.hasobject:
            raise ValueError(f"Unsupported dtype {dtype}")
        shape = tuple(map(operator.index, shape)) if hasattr(shape, "__iter__") else (operator.index(shape),)
        nbytes = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if memptr is None:
            memptr = allocate(nbytes)
        self._hold = memptr._hold
        self._host = np.ndarray(shape, dtype, memptr.mem.buffer(), memptr._offset, strides, order)
        self.base = None

    @classmethod
    def _of(cls, values, base):
        """A view: NumPy's view of a piece of another array's memory."""
        self = cls.__new__(cls)
        self._host, self._hold = values, base._hold
        self.base = base if base.base is None else base.base
        return self

    # ---- what it is: known without asking the device

    shape = property(lambda self: self._host.shape, lambda self, shape: setattr(self._host, "shape", shape))
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    strides = property(lambda self: self._host.strides)
    flags = property(lambda self: Flags(self._host.flags, self.base is None))
    device = property(lambda self: self._hold.memory.device)
    T = property(lambda self: self.transpose())
    real = property(lambda self: self if self.dtype.kind != "c" else wrap(self._host.real, self))

    @property
    def data(self):
        """Where it begins."""
        address = self._host.__array_interface__["data"][0]
        memory = self._hold.memory
        return MemoryPointer(memory, address - memory.ptr if self.size else 0, self._hold)

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.dtype.str, "descr": self.dtype.descr, "version": 3,
                "strides": None if self.flags.c_contiguous else self.strides,
                "data": (self.data.ptr if self.size else 0, False), "stream": streams.current_stream().ptr or 1}

    def __len__(self):
        return len(self._host)

    # ---- to and from the host

    def __array__(self, *_, **__):
        raise TypeError(IMPLICIT)

    def get(self, stream=None, order="C", out=None, blocking=True):
        """A copy on the host; not yet filled, if not `blocking`."""
        stream = streams.current_stream() if stream is None else stream
        if out is None:
            out = np.empty(self.shape, self.dtype, "F" if order == "A" and self._host.flags.fnc else order[0])
            out.reshape(-1, order="A").view(np.uint8)[...] = POISON
        elif not isinstance(out, np.ndarray):
            raise TypeError(f"Only numpy.ndarray can be obtained from cupy.ndarray, not {type(out)}")
        elif out.dtype != self.dtype or out.shape != self.shape:
            raise ValueError(f"out is {out.dtype} {out.shape}, the array {self.dtype} {self.shape}")
        elif not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        values = self._host
        submit(lambda: np.copyto(out, values), stream)
        if blocking:
            stream.synchronize()
        return out

    def set(self, arr, stream=None):
        """Fill it from an array on the host; that may change at once, except in pinned memory."""
        if not isinstance(arr, np.ndarray):
            raise TypeError(f"Only numpy.ndarray can be set to cupy.ndarray, not {type(arr)}")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        values = arr if pinned(arr.__array_interface__["data"][0]) else arr.copy()
        target = self._host
        submit(lambda: np.copyto(target, values), stream)

    def item(self):
        """The value of an array of one."""
        return self.get().item()

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __complex__(self):
        return complex(self.get())

    def tolist(self):
        """The values as Python's."""
        return self.get().tolist()

    def tobytes(self, order="C"):
        """The values as bytes."""
        return self.get().tobytes(order)

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, form):
        return format(self.get(), form) if self.ndim else format(self.item(), form)

    def __reduce__(self):
        from cupy import array
        return array, (self.get(),)

    # ---- views

    def reshape(self, *shape, order="C"):
        """The same values in another shape; a view where one is possible."""
        return apply(np.reshape, self, shape[0] if len(shape) == 1 else shape, order=order)

    def ravel(self, order="C"):
        """The same values in one row; a view where one is possible."""
        return apply(np.ravel, self, order=order)

    def transpose(self, *axes):
        """A view with the axes in another order."""
        return wrap(self._host.transpose(*axes), self)

    def swapaxes(self, one, other):
        """A view with two axes exchanged."""
        return wrap(self._host.swapaxes(one, other), self)

    def squeeze(self, axis=None):
        """A view without axes of one."""
        return wrap(self._host.squeeze(axis), self)

    def view(self, dtype=None):
        """The same memory read as another type."""
        return wrap(self._host.view(*(() if dtype is None else (dtype,))), self)

    def __getitem__(self, key):
        check(key)
        keys = key if isinstance(key, tuple) else (key,)
        if all(k is None or k is ... or isinstance(k, slice | int | np.integer) for k in keys):
            return wrap(self._host[keys if ... in keys else (*keys, ...)], self)
        masked = any(isinstance(k, ndarray) and k.dtype.kind == "b" for k in keys)
        return apply(operator.getitem, self, key, now=masked)  # a mask's values decide the shape

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __setitem__(self, key, value):
        check(key, value)
        by_values = any(isinstance(k, ndarray) for k in (key if isinstance(key, tuple) else (key,)))
        target, key, value = self._host, host(key), host(value)
        if not by_values:
            np.broadcast_to(np.broadcast_to(0, np.shape(value)), target[key].shape)  # raises now, not when it runs
        submit(lambda: operator.setitem(target, key, value))

    # ---- operations

    def __array_ufunc__(self, ufunc, method, *args, out=None, **options):
        if method == "at":
            check(*args)
            args = host(args)
            return submit(lambda: ufunc.at(*args))
        if method not in ("__call__", "reduce", "accumulate", "outer"):
            return NotImplemented
        out = out[0] if isinstance(out, tuple) and len(out) == 1 else out
        return apply(getattr(ufunc, method), *args, **options, **({} if out is None else {"out": out}))

    def __array_function__(self, function, types, args, options):
        from cupy.emulator import functions
        if any(issubclass(kind, np.ndarray) for kind in types):
            raise TypeError(f"{function.__name__} cannot mix arrays of NumPy and of the device")
        mine = functions.MINE.get(function.__name__)
        if mine is not None:
            return mine(*args, **options)
        if function.__name__ not in functions.APPLIED:
            return NotImplemented
        return apply(function, *args, **options)

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        """The values as another type."""
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return apply(np.ndarray.astype, self, dtype, order=order)

    def copy(self, order="C"):
        """A copy on the device."""
        return apply(np.copy, self, order=order)

    __copy__ = copy

    def __deepcopy__(self, _):
        return self.copy()

    def flatten(self, order="C"):
        """A copy in one row."""
        return apply(np.ndarray.flatten, self, order=order)

    def fill(self, value):
        """Make every value this one."""
        self[...] = value

    def dot(self, other, out=None):
        """The matrix product."""
        return apply(np.dot, self, other, **({} if out is None else {"out": out}))

    def clip(self, min=None, max=None, out=None):
        """The values, moved to within bounds."""
        return apply(np.clip, self, min, max, out=out)

    def take(self, indices, axis=None, out=None):
        """The values at indices along an axis."""
        return apply(np.take, self, indices, axis=axis, out=out)


def reduction(name):
    """A method that reduces along an axis, as NumPy's of that name."""
    function = getattr(np, name)

    def method(self, axis=None, **options):
        return apply(function, self, axis=axis, **options)
    method.__name__, method.__doc__ = name, f"As numpy.{name}."
    return method


for _name in ("sum", "max", "min", "mean", "var", "std", "prod", "all", "any", "argmax", "argmin", "cumsum", "argsort"):
    setattr(ndarray, _name, reduction(_name))

BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide,
          "mod": np.remainder, "pow": np.power, "matmul": np.matmul, "and": np.bitwise_and, "or": np.bitwise_or,
          "xor": np.bitwise_xor, "lshift": np.left_shift, "rshift": np.right_shift, "lt": np.less, "le": np.less_equal,
          "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal}


def _operators(name, ufunc):
    def plain(self, other):
        return apply(ufunc, self, other)

    def reflected(self, other):
        return apply(ufunc, other, self)

    def in_place(self, other):
        return apply(ufunc, self, other, out=self)
    setattr(ndarray, f"__{name}__", plain)
    if name not in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(ndarray, f"__r{name}__", reflected)
        if name != "matmul":
            setattr(ndarray, f"__i{name}__", in_place)


for _name, _ufunc in BINARY.items():
    _operators(_name, _ufunc)
for _name, _ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", lambda self, ufunc=_ufunc: apply(ufunc, self))
