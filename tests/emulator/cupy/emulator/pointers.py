"""Pointers into device and pinned memory, and the copies between them."""

import collections
import contextlib
import ctypes
import threading

from cupy.emulator import streams
from cupy.emulator.memory import Hold, Memory, pinned


def address_of(place):
    """The address that an int, a ctypes pointer or one of our pointers means."""
    if isinstance(place, ctypes.c_void_p):
        return place.value or 0
    return getattr(place, "ptr", place)


def copy(target, source, size, stream, keep=()):
    """Copy bytes between any two places in the order of a stream. Host memory that is not pinned is read at once."""
    target, source = address_of(target), address_of(source)

    def move(keep=keep):
        ctypes.memmove(target, source, size)
    streams.put(move, stream)


ALLOCATOR = threading.local()  # of the block that a thread is in


@contextlib.contextmanager
def using_allocator(allocator=None):
    """A block in which this thread's arrays are allocated so."""
    before, ALLOCATOR.function = getattr(ALLOCATOR, "function", None), allocator
    try:
        yield
    finally:
        ALLOCATOR.function = before


class Pool:
    """Memory that is kept when its last array is gone, for the next of that size."""

    def __init__(self):
        self.free = collections.defaultdict(list)

    def malloc(self, size):
        """A piece that is free, or a new one."""
        free = self.free[size]
        memory = free.pop() if free else Memory(size)
        return MemoryPointer(memory, 0, Hold(memory, free))


def allocate(size):
    """Device memory for the current stream, or as the block says that this thread is in."""
    if function := getattr(ALLOCATOR, "function", None):
        return function(size)
    memory = Memory(size)
    memory.queue = streams.current_stream().queue
    return MemoryPointer(memory, 0)


class MemoryPointer:
    """A place in device memory."""

    def __init__(self, mem, offset, hold=None):
        self.mem, self._offset, self._hold = mem, offset, hold or Hold(mem)
        self.ptr, self.device, self.device_id = mem.ptr + offset, mem.device, 0

    def __add__(self, offset):
        return MemoryPointer(self.mem, self._offset + offset, self._hold)

    __radd__ = __add__

    def __sub__(self, offset):
        return self + -offset

    def __int__(self):
        return self.ptr

    def copy_to_host_async(self, mem, size, stream=None):
        """Copy bytes to pinned memory."""
        _require_pinned(mem)
        copy(mem, self, size, stream, (self.mem,))

    def copy_from_host_async(self, mem, size, stream=None):
        """Copy bytes from pinned memory."""
        _require_pinned(mem)
        copy(self, mem, size, stream, (self.mem,))

    def copy_from_device_async(self, src, size, stream=None):
        """Copy bytes on the device."""
        copy(self, src, size, stream, (self.mem, src.mem))

    def copy_from_async(self, mem, size, stream=None):
        """Copy bytes from anywhere."""
        copy_from = self.copy_from_device_async if isinstance(mem, MemoryPointer) else self.copy_from_host_async
        copy_from(mem, size, stream)

    def copy_to_host(self, mem, size):
        """Copy bytes to the host in the null stream, and wait for it."""
        copy(mem, self, size, streams.Stream.null, (self.mem,))
        streams.Stream.null.synchronize()

    def copy_from_host(self, mem, size):
        """Copy bytes from the host in the null stream, and wait for it."""
        copy(self, mem, size, streams.Stream.null, (self.mem,))
        streams.Stream.null.synchronize()

    def copy_from_device(self, src, size):
        """Copy bytes on the device, in the null stream."""
        copy(self, src, size, streams.Stream.null, (self.mem, src.mem))

    def copy_from(self, mem, size):
        """Copy bytes from anywhere, in the null stream."""
        (self.copy_from_device if isinstance(mem, MemoryPointer) else self.copy_from_host)(mem, size)

    def memset_async(self, value, size, stream=None):
        """Fill with a byte."""
        at, memory = self.ptr, self.mem
        streams.put(lambda memory=memory: ctypes.memset(at, value, size), stream)

    def memset(self, value, size):
        """Fill with a byte, in the null stream."""
        self.memset_async(value, size, streams.Stream.null)


def _require_pinned(place):
    if not pinned(address_of(place)):
        raise ValueError(f"an asynchronous copy needs pinned memory on the host, {address_of(place):#x} is not")


def alloc_pinned_memory(size):
    """At least so many bytes of the host that the device can copy from and to while the host goes on.

    An object with NumPy's buffer interface. The pool of the real one rounds up, and so do we.
    """
    room = max(512, 1 << (size - 1).bit_length())
    memory = Memory(room, "pinned")
    kind = type("PinnedMemoryPointer", (ctypes.c_char * room,),
                {"ptr": memory.ptr, "mem": memory, "size": lambda self: room})
    return kind.from_address(memory.ptr)
