"""Working memory that every thread keeps: new pages from the system would cost more than many a kernel."""

import threading
from math import prod

from kernels.layout import empty

_local = threading.local()


def array(name, shape):
    """This thread's uninitialised float32 array of that name and shape: valid until the thread asks for the name
    again.
    """
    buffers = _local.__dict__
    size = prod(shape)
    if name not in buffers or buffers[name].size < size:
        buffers[name] = empty((size,))
    return buffers[name][:size].reshape(shape)
