"""How a message is summed over the ranks, in place: as the MPI does it, or in rank order, always the same bits.

A reduction turns a part of a gradient buffer into the Operations that the engine runs. Requests are persistent where
the MPI has such collectives (MPI 4), and made anew by each start elsewhere.
"""

import ctypes

import numpy as np

import kernels
from mpilayer.base.errors import UserError
from mpilayer.mpi.engine import Operation

MOST_INT = 2**31 - 1  # of C


class Calls:
    """Starts collectives, on a communicator for each lane and one for votes.

    MPI wants all ranks to start the collectives of a communicator in one order. In a lane they do: a message's first,
    its second, then the next message's. Between lanes that order is a matter of chance.
    """

    def __init__(self, ranks):
        self.MPI, self.ranks, self.comms = ranks.MPI, ranks, {}
        self.size, self.rank = ranks.size, ranks.rank
        self.library = ctypes.CDLL(self.MPI.__file__)  # the symbols of the MPI that mpi4py is linked with
        self.test = self.address("MPI_Test")
        self.persistent = self.MPI.Get_version() >= (4, 0)
        self.made, self._bfloat16_sum = [], self.MPI.OP_NULL  # what must be freed, by all ranks in one order

    @property
    def cuda_aware(self):
        """Whether the MPI says that it takes a GPU's memory."""
        query = getattr(self.library, "MPIX_Query_cuda_support", None)
        return query is not None and query() == 1

    def address(self, function):
        """Of an MPI function."""
        return ctypes.cast(getattr(self.library, function), ctypes.c_void_p).value

    def comm(self, lane):
        """The communicator of a lane; all ranks must ask for them in one order."""
        if lane not in self.comms:
            self.comms[lane] = self.ranks.duplicate()
        return self.comms[lane]

    def across(self, lane):
        """The communicator of a lane among the ranks that have one place in each node."""
        if ("across", lane) not in self.comms:
            self.comms["across", lane] = self.ranks.split(self.ranks.node.rank)
        return self.comms["across", lane]

    def operation(self, lane, collective, *arguments, op=None, work=(), comm=None):
        """An Operation that starts a collective, by its name in MPI; arguments as mpi4py has them, buffers as lists.

        comm   in place of that of the lane
        """
        comm = comm or self.comm(lane)
        if self.persistent:
            options = {"op": op} if op else {}
            request = getattr(comm, f"{collective}_init")(*arguments, **options)
            self.made.append(request)
            at = self.MPI._addressof(request)
            return Operation((self.address("MPI_Start"), at), at, work, (request, *arguments))
        request = np.array([self.MPI.REQUEST_NULL.handle], np.int64)
        flat, keep = self._flat(arguments, op)
        flat = [(number + 2**63) % 2**64 - 2**63 for number in (*flat, comm.handle)]  # handles may be unsigned
        start = (self.address(f"MPI_I{collective.lower()}"), *flat, request.ctypes.data)
        return Operation(start, request.ctypes.data, work, (request, keep, *arguments))

    def free(self):
        """Give up all that was made; nothing may be in flight."""
        while self.made:
            self.made.pop().Free()
        while self.comms:
            self.comms.popitem()[1].Free()
        if self._bfloat16_sum:
            self._bfloat16_sum.Free()

    def _flat(self, arguments, op):
        """The arguments as C takes them, up to the communicator; a reduction has count and type once, after buffers."""
        flat, keep = [], []
        for number, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray):  # the counts of the buffer before
                keep.append(_c_ints(argument))
                flat[-2] = keep[-1].ctypes.data
                continue
            if op and number == 0 and argument is not self.MPI.IN_PLACE:
                flat.append(argument[0].ctypes.data)
                continue
            if argument is self.MPI.IN_PLACE:
                flat += [int(argument)] if op else [int(argument), 0, self.MPI.BYTE.handle]
                continue
            array, *layout, kind = argument
            keep += map(_c_ints, layout)
            counts = [numbers.ctypes.data for numbers in keep[-len(layout):]] if layout else [int(_c_ints(array.size))]
            flat += [array.ctypes.data, *counts, kind.handle]
        return flat + ([op.handle] if op else []), keep

    def vote(self, number):
        """The Operation that replaces an int64 array of one number by the least of all ranks'."""
        return self.operation("votes", "Allreduce", self.MPI.IN_PLACE, [number, self.MPI.INT64_T], op=self.MPI.MIN)

    def bfloat16_sum(self):
        """The MPI_Op that adds bfloat16 numbers, made when it is first asked for. Raises mpi4py's MPI.Exception."""
        self._bfloat16_sum = self._bfloat16_sum or self._create_bfloat16_sum()
        return self._bfloat16_sum

    def _create_bfloat16_sum(self):
        wide = self.MPI._sizeof(self.MPI.Op) == 8
        handle = (ctypes.c_int64 if wide else ctypes.c_int32)(0)
        create = self.library.MPI_Op_create
        create.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        if code := create(kernels.bfloat16_op_address(), 1, ctypes.byref(handle)):
            raise self.MPI.Exception(code)
        return self.MPI.Op.fromhandle(handle.value if wide else handle.value & 0xFFFFFFFF)


class Reduction:
    """How parts of arrays are summed; of each array it is told by `share` before."""

    def __init__(self, calls):
        self.calls = calls

    def share(self, array):
        """Parts of an array will be summed; all ranks call this together."""


class Native(Reduction):
    """One all-reduce, in the order of summation that the MPI picks for the size of the message."""

    @staticmethod
    def warm(dtype):
        """Compile what sums of that type need."""
        if dtype != np.float32:
            kernels.bfloat16_op_address()

    def arguments(self, buffer):
        """Of the MPI call, and its operator."""
        calls, kind = self.calls, _datatype(self.calls.MPI, buffer)
        op = calls.MPI.SUM if buffer.dtype == np.float32 else calls.bfloat16_sum()
        _c_ints(buffer.size)  # our operator counts with an int, even where MPI does not
        return (calls.MPI.IN_PLACE, [buffer, kind]), op

    def operations(self, buffer, lane):
        """Of the sum of `buffer` (n,) float32, or uint16 with bfloat16's bits. Raises TypeError for other numbers."""
        arguments, op = self.arguments(buffer)
        return (self.calls.operation(lane, "Allreduce", *arguments, op=op),)


class Ordered(Reduction):
    """Every rank sends every other one its part, sums in rank order what comes, and sends the sum to all: two rounds.
    ((g_0 + g_1) + g_2) + ... for every number, however the layers are grouped into messages and on whatever rank it is
    added up.
    """

    def __init__(self, calls):
        super().__init__(calls)
        self.scratch = {}

    @staticmethod
    def warm(dtype):
        """Compile what sums of that type need."""
        kernels.ordered_sum_address(dtype)

    def _room(self, lane, size, dtype):
        """Memory for the parts of all ranks, one for each lane."""
        floats = size * dtype.itemsize // 4 + 1
        if lane not in self.scratch or self.scratch[lane].size < floats:
            self.scratch[lane] = kernels.empty((floats,))
        return self.scratch[lane].view(dtype)[:size]

    def operations(self, buffer, lane):
        """Of the sum of `buffer` (n,) float32, or uint16 with bfloat16's bits. Raises TypeError for other numbers."""
        _datatype(self.calls.MPI, buffer)
        room = self._room(lane, self.calls.size * (buffer.size // self.calls.size + 1), buffer.dtype)
        return scattered(self.calls, buffer, room, lane, lane)


def scattered(calls, buffer, room, first, last):
    """Two Operations in two lanes: the parts of all ranks of what is this rank's to add up; their sum, and all sums.

    `room` has place for the parts.
    """
    P, kind = calls.size, _datatype(calls.MPI, buffer)
    ends = np.arange(P + 1) * buffer.size // P
    counts, starts = np.diff(ends), ends[:-1]
    mine = int(counts[calls.rank])
    parts = room[:P * mine]
    scatter = calls.operation(first, "Alltoallv", [buffer, counts, starts, kind],
                              [parts, np.full(P, mine), np.arange(P) * mine, kind])
    total = (kernels.ordered_sum_address(buffer.dtype), parts.ctypes.data, P, mine, mine * buffer.itemsize,
             parts.ctypes.data, 1)
    gather = calls.operation(last, "Alltoallv", [parts, np.full(P, mine), np.zeros(P, int), kind],
                             [buffer, counts, starts, kind], work=total)  # an all-gather in one round
    return scatter, gather


def _datatype(MPI, buffer):
    """MPI's name of the numbers, as far as they can be summed. Raises TypeError for others."""
    kinds = {"float32": MPI.FLOAT, "uint16": MPI.UINT16_T}
    if buffer.dtype.name not in kinds:
        raise TypeError(f"a sum of {buffer.dtype} | expected float32, or uint16 with bfloat16's bits")
    return kinds[buffer.dtype.name]


def _c_ints(numbers):
    """An array of C's int. Raises UserError for numbers beyond."""
    if np.max(numbers, initial=0) > MOST_INT:
        raise UserError(f"a message of {np.max(numbers):,} numbers | expected at most {MOST_INT:,}, for MPI counts with"
                        " an int | try: a smaller chunk")
    return np.array(numbers, np.int32)
