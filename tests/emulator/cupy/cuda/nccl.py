"""NCCL's sums over the ranks, which MPI makes when their turn comes on a stream."""

import numpy as np
from cupy.emulator import streams

available = True
NCCL_SUM, NCCL_FLOAT32 = 0, 7


def get_unique_id():
    """What the ranks of a communicator agree on first."""
    return (0,) * 128


class NcclCommunicator:
    """Of all ranks of this MPI, which must be as many as are said."""

    def __init__(self, ndev, commId, rank):
        from mpi4py import MPI

        if (ndev, rank) != (MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank) or len(commId) != 128:
            raise RuntimeError("NCCL_ERROR_INVALID_ARGUMENT: invalid argument")
        self._in_place, self._comm = MPI.IN_PLACE, MPI.COMM_WORLD.Dup()

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):  # noqa: N802
        """Put the sum of `count` numbers of all ranks where this rank's are, on a stream given by its address."""
        if sendbuf != recvbuf or (datatype, op) != (NCCL_FLOAT32, NCCL_SUM):
            raise NotImplementedError("only sums of float32 in place")
        memory = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * count).from_address(recvbuf))
        streams.put(lambda: self._comm.Allreduce(self._in_place, memory), streams.STREAMS[stream])

    def destroy(self):
        """Give it up."""
        self._comm.Free()
