"""A communication hook of DistributedDataParallel: sums by MPI, several steps late if that is wanted.

    model.register_comm_hook(mpilayer.torch.Late(delay=1), mpilayer.torch.comm_hook)
"""

from collections import defaultdict, deque

from mpi4py import MPI
from torch.futures import Future

from mpilayer.base.errors import UserError
from mpilayer.torch.background import background


class Late:
    """What comm_hook keeps between steps, for one model.

    delay   after how many steps a mean gradient is applied; 0: at once

    DistributedDataParallel lays its buckets out anew after its first step, whose gradient is therefore applied at once;
    those of the `delay` steps after it are zero.
    """

    def __init__(self, delay=0, comm=MPI.COMM_WORLD):
        if not isinstance(delay, int) or delay < 0:
            raise UserError(f"delay {delay!r} | expected a whole number of steps")
        self.delay, self.first = delay, True
        self.comm, self.thread, self.pending = comm.Dup(), background(), defaultdict(deque)

    def sum(self, tensor):
        """A Future of the tensor, which becomes the mean over the ranks."""
        tensor /= self.comm.size
        array = tensor.numpy()
        return self.thread.submit(lambda: self.comm.Iallreduce(MPI.IN_PLACE, array), lambda: tensor)

    def late(self, number, buffer):
        """Put the mean of `delay` calls ago into the buffer, and what was there on its way."""
        pending = self.pending[number]
        if pending and pending[0][0].shape != buffer.shape:
            raise UserError(f"bucket {number} | has {buffer.numel()} numbers, and had {pending[0][0].numel()}"
                            " | expected a model that stays as it is | try: delay=0")
        copy = buffer.clone()
        pending.append((copy, self.sum(copy)))
        if len(pending) <= self.delay:
            return buffer.zero_()
        mean, future = pending.popleft()
        future.wait()
        return buffer.copy_(mean)


def comm_hook(state, bucket):
    """For register_comm_hook: a Future of the bucket's mean over the ranks, or that of state.delay steps ago.

    state   Late        bucket   torch.distributed.GradBucket on the CPU, float32 or float64
    """
    buffer = bucket.buffer()
    late = state.delay and not state.first
    if bucket.is_last():
        state.first = False
    if not late:
        return state.sum(buffer)
    future = Future()
    future.set_result(state.late(bucket.index(), buffer))
    return future
