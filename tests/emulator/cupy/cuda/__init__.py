"""Streams, events, memory and the device."""

from cupy.cuda import compiler, driver, memory, runtime
from cupy.emulator import streams as _streams
from cupy.emulator.memory import Memory
from cupy.emulator.pointers import MemoryPointer, Pool, alloc_pinned_memory, using_allocator
from cupy.emulator.pointers import allocate as alloc
from cupy.emulator.streams import Event, Graph, Stream, get_elapsed_time
from cupy.emulator.streams import current_stream as _current

__all__ = ["Device", "Event", "Graph", "Memory", "MemoryPointer", "MemoryPool", "PinnedMemoryPool", "Stream", "alloc",
           "alloc_pinned_memory", "compiler", "driver", "get_current_stream", "get_device_id", "get_elapsed_time",
           "is_available", "memory", "runtime", "set_allocator", "set_pinned_memory_allocator", "using_allocator"]


def get_current_stream(device_id=None):
    """The stream that this thread gives its work to."""
    return _current()


def get_device_id():
    """The only device."""
    return 0


def is_available():
    """It is."""
    return True


class Device:
    """The only device there is."""

    compute_capability = "80"
    attributes = {"MultiProcessorCount": 4, "MaxThreadsPerBlock": 1024, "MaxSharedMemoryPerBlock": 48 << 10,
                  "MaxSharedMemoryPerBlockOptin": runtime.MOST_SHARED, "WarpSize": 32, "ComputeCapabilityMajor": 8,
                  "ComputeCapabilityMinor": 0, "MaxSharedMemoryPerMultiprocessor": 228 << 10,
                  "MaxRegistersPerBlock": 65536, "L2CacheSize": 1 << 20}
    mem_info = runtime.memGetInfo()
    pci_bus_id = "0000:00:00.0"

    def __init__(self, device=None):
        self.id = 0 if device is None else int(device)
        if self.id != 0:
            raise runtime.CUDARuntimeError(101)

    def __int__(self):
        return self.id

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return self.id

    def __repr__(self):
        return f"<CUDA Device {self.id}>"

    def use(self):
        """Make it this thread's device."""

    def synchronize(self):
        """Wait for all work of all streams."""
        _streams.run_all()


class MemoryPool(Pool):
    """The default one keeps nothing: arrays come from `alloc`, what they leave is given back, and touching it a fault.
    """

    def __init__(self, allocator=None):
        super().__init__()

    def free_all_blocks(self, stream=None):
        """Nothing is kept."""

    def free_bytes(self):
        """Nothing is kept."""
        return 0

    used_bytes = total_bytes = free_bytes

    def set_limit(self, size=None, fraction=None):
        """There is none."""


class PinnedMemoryPool(MemoryPool):
    """The same."""

    def n_free_blocks(self):
        """Nothing is kept."""
        return 0


def set_allocator(allocator=None):
    """There is one way to get memory."""


set_pinned_memory_allocator = set_allocator
