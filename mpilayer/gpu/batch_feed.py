"""Batches on their way to a GPU, while it computes on the one before."""

import numpy as np

from kernels import gpu
from mpilayer.gpu.staging import pinned
from mpilayer.gpu.trace import is_complete


class BatchBuffer:
    """Memory for a batch: of each array what is here, and what is on the GPU. Events: it is full, it is free again."""

    def __init__(self, arrays):
        cupy = gpu.cupy()
        self.forms = _forms(arrays)
        self.here = [pinned(*form) for form in self.forms]
        self.there = [cupy.empty(*form) for form in self.forms]
        self.full, self.free = (cupy.cuda.Event(disable_timing=True) for _ in range(2))


def _forms(arrays):
    return [(array.shape, array.dtype) for array in arrays]


class Feed:
    """Two BatchBuffers in turn, filled by a stream of their own."""

    def __init__(self):
        cuda = gpu.cupy().cuda
        self.net, self.stream = cuda.get_current_stream(), cuda.Stream(non_blocking=True)
        self.buffers = [None, None]

    def put(self, *arrays):
        """NumPy's arrays where the net computes. They are good until it has been told what to do with the next ones."""
        last, buffer = self.buffers
        if last:
            last.free.record(self.net)
        if buffer and not is_complete(buffer.full):  # by what was in it before
            buffer.full.synchronize()
        if buffer is None or buffer.forms != _forms(arrays):
            buffer = BatchBuffer(arrays)
            buffer.free.record(self.net)  # the memory may have been something else's
        self.stream.wait_event(buffer.free)
        for array, here, there in zip(arrays, buffer.here, buffer.there, strict=True):
            np.copyto(here, array)
            there.data.copy_from_host_async(here.ctypes.data, here.nbytes, self.stream)
        buffer.full.record(self.stream)
        self.net.wait_event(buffer.full)
        self.buffers = [buffer, last]
        return buffer.there
