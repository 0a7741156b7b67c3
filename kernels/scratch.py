"""Working memory that every thread keeps: new pages from the system would cost more than many a kernel."""

import threading
from math import prod

from kernels.layout import empty

_local = threading.local()


def array(name, shape):
    """An uninitialised float32 array, this thread's under that name: good until it asks for the name again."""
    buffers = _local.__dict__
    size = prod(shape)
    if name not in buffers or buffers[name].size < size:
        buffers[name] = empty((size,))
    return buffers[name][:size].reshape(shape)
