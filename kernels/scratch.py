"""Working memory that every thread keeps: new pages from the system would cost more than many a kernel."""

import threading
from math import prod

import numpy as np

from kernels.layout import empty

_local = threading.local()


def array(name, shape, dtype=np.float32):
    """This thread's uninitialised array of that name and shape: valid until the thread asks for the name again.

    dtype   float32, or uint16 for bfloat16
    """
    buffers, count = _local.__dict__, prod(shape)
    size = -(-count * np.dtype(dtype).itemsize // 4)
    if name not in buffers or buffers[name].size < size:
        buffers[name] = empty((size,))
    return buffers[name][:size].view(dtype)[:count].reshape(shape)
