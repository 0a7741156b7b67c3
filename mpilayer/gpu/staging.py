"""How gradients come from a GPU to where MPI sums them, and back.

A stream of its own copies each message to pinned memory of this computer once it has been
computed, another one copies the sum back, and nobody waits for a copy but what reads it:

    post:     record(computed) ; out: wait(computed), copy, record(left)
    left:     the message is ready to go; MPI sums it where it is
    arrived:  back: copy, record(returned)
    settle:   the net's stream waits for `returned`; this core does not

Nothing is overwritten too early: backward writes into a slot again after its layers were settled, that is after
`returned`; that comes after MPI, which began after `left`. So there is one order for all that touches a message, on the
GPU and here, as long as whoever posts has settled what was there before, which the request queue makes sure of.
"""

import collections
import ctypes

import numpy as np

from kernels import gpu
from kernels.gpu import address
from mpilayer.compression.codecs import CODECS
from mpilayer.gpu import device
from mpilayer.gpu.trace import is_complete


class InFlightCopy:
    """One message of one slot on its way. `out` and `back` are (array on the GPU, what MPI has of it).

    began   when its last copy did     done     when that was done: events
    home    whether the GPU was told of its way back
    """

    def __init__(self, slot, number, name, out, back):
        self.slot, self.number, self.name, self.out, self.back = slot, number, name, out, back
        self.began = self.done = None
        self.home = False


class Staged:
    """Gradients lie on the GPU, MPI sums copies of them."""

    description, sends, comes = "gradients are summed in pinned memory", True, "back"

    def __init__(self, trace):
        cuda = gpu.cupy().cuda
        self.trace, self.net = trace, cuda.get_current_stream()
        self.outwards, self.inwards = (cuda.Stream(non_blocking=True) for _ in range(2))
        self.computed = cuda.Event(disable_timing=True)
        self.leaving, self.away, self.seen = collections.deque(), [], 0

    def mirror(self, array):
        """Pinned memory of its size."""
        return pinned(array.shape, array.dtype)

    def open(self, engine, last, payloads):
        """The messages of so many slots; `last` is the number that each message ends as."""
        self.engine, self.last = engine, last
        self.copies = [[InFlightCopy(slot, number, bucket.name, *payload.copies(number))
                        for number, bucket in enumerate(payload.context.buckets)]
                       for slot, payload in enumerate(payloads)]

    def expect(self, slot, number):
        """A message is being replaced."""
        self.copies[slot][number].home = False

    def leave(self, slot, number):
        """A message has been computed, or will have been by what the GPU was told so far: copy it then."""
        copy = self.copies[slot][number]
        self.computed.record(self.net)
        self.outwards.wait_event(self.computed)
        self.send(copy)
        self.leaving.append(copy)

    def send(self, copy):
        """To where MPI sums it."""
        device, here = copy.out
        copy.began = self.trace.record(self.outwards)
        device.data.copy_to_host_async(here.ctypes.data, device.nbytes, self.outwards)
        copy.done = self.trace.record(self.outwards)

    def fetch(self, copy):
        """From there."""
        device, here = copy.back
        copy.began = self.trace.record(self.inwards)
        device.data.copy_from_host_async(here.ctypes.data, device.nbytes, self.inwards)
        copy.done = self.trace.record(self.inwards)

    def move(self, advance):
        """Hand over to MPI what has left the GPU, and what has come from MPI to the GPU."""
        while self.leaving and is_complete(self.leaving[0].done):
            copy = self.leaving.popleft()
            self.trace.copied("out", copy.name, copy.began, copy.done)
            self.engine.mark(copy.slot, copy.number, ready=True)
            self.away.append(copy)
        advance()
        if self.engine.arrivals != self.seen:
            self.seen = self.engine.arrivals
            self.away = [copy for copy in self.away if not self._came(copy)]

    def _came(self, copy):
        """Whether MPI is through with it; then it goes back."""
        if self.engine.arrived(copy.slot, self.last[copy.number]):
            self.fetch(copy)
            copy.home = True
        return copy.home

    def there(self, slot, number):
        """Whether a message has come back, or the GPU was told of it."""
        return self.copies[slot][number].home

    def enter(self, slot, number):
        """The net's stream waits for the copy back, if that is not done."""
        copy = self.copies[slot][number]
        if copy.done is None:
            return False
        waits = not is_complete(copy.done)
        if waits:
            self.net.wait_event(copy.done)
        self.trace.copied(self.comes, copy.name, copy.began, copy.done)
        copy.began = copy.done = None
        return waits

    def reached(self):
        """A function that tells whether the GPU has come to this point."""
        event = self.net.record()
        return lambda: is_complete(event)

    @property
    def quiet(self):
        """Whether no copy is on its way."""
        return not (self.leaving or self.away)

    def close(self):
        """Pinned memory must not go while it is read or written."""
        for stream in (self.outwards, self.inwards):
            stream.synchronize()


class CudaAware(Staged):
    """Gradients lie on the GPU, and MPI sums them there. It must not see them before they have been computed."""

    description = "gradients are summed in the GPU's memory"

    def mirror(self, array):
        """The same memory."""
        return disguised(array)

    def send(self, copy):
        """It is there when it has been computed."""
        copy.began, copy.done = None, self.trace.record(self.outwards)

    def fetch(self, copy):
        """It has never been elsewhere."""
        copy.began = copy.done = None


class SingleRank(Staged):
    """Gradients lie on the GPU of the only rank: they are the sums, and MPI does not see them."""

    description, sends = "there is nothing to sum", False

    def mirror(self, array):
        """Something to make requests of that are never started."""
        return np.zeros(array.shape, array.dtype)

    def leave(self, slot, number):
        """What reads it is told to the same stream as what computes it."""
        self.copies[slot][number].home = True


class Nccl(SingleRank):
    """Gradients lie on GPUs that sum them among themselves (NCCL), in the order in which they have been computed."""

    description, comes = "gradients are summed by NCCL", "sum"

    def __init__(self, trace, ranks):
        super().__init__(trace)
        self.nccl = device.nccl()
        number = ranks.bcast(self.nccl.get_unique_id() if ranks.rank == 0 else None)
        self.everyone = self.nccl.NcclCommunicator(ranks.size, number, ranks.rank)

    def leave(self, slot, number):
        """As it leaves, so it comes back."""
        Staged.leave(self, slot, number)
        self.leaving.pop().home = True

    def send(self, copy):
        """All ranks do, in one order."""
        there, _ = copy.out
        copy.began, kinds = self.trace.record(self.outwards), (self.nccl.NCCL_FLOAT32, self.nccl.NCCL_SUM)
        self.everyone.allReduce(there.data.ptr, there.data.ptr, there.size, *kinds, self.outwards.ptr)
        copy.done = self.trace.record(self.outwards)

    def close(self):
        """Nothing may be in flight; the GPUs need not know each other any more."""
        super().close()
        self.everyone.destroy()


def transfer(ranks, settings, trace, order):
    """How gradients come to MPI. CUDA-aware ones have no sums in rank order, and none of bfloat16."""
    if ranks.size == 1 and settings.wire in CODECS:
        return SingleRank(trace)
    if settings.reduction == "nccl":
        return Nccl(trace, ranks)
    plain = settings.reduction == "native" and settings.wire == "float32" and order != "split"
    return (CudaAware if settings.cuda_aware and plain else Staged)(trace)


def disguised(array):
    """The memory of an array on the GPU as NumPy's, for MPI alone: to look at it here would be fatal."""
    memory = (ctypes.c_char * array.nbytes).from_address(address(array))
    return np.frombuffer(memory, array.dtype).reshape(array.shape)


def pinned(shape, dtype):
    """An array in memory of this computer that the GPU copies to and from by itself."""
    size = int(np.prod(shape))
    memory = gpu.cupy().cuda.alloc_pinned_memory(max(1, size) * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, size).reshape(shape)


class DeviceScalar:
    """A number that the GPU is to compute, on its way here."""

    def __init__(self, number):
        self.number, self.here = number.astype(np.float64, copy=False), pinned((1,), np.float64)
        self.event = gpu.cupy().cuda.Event(disable_timing=True)
        stream = gpu.cupy().cuda.get_current_stream()
        self.number.data.copy_to_host_async(self.here.ctypes.data, 8, stream)
        self.event.record(stream)

    @property
    def done(self):
        """Whether it is here."""
        return is_complete(self.event)

    def __float__(self):
        return float(self.here[0])
