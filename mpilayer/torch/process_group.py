"""The backend "mpi4py" of torch.distributed: its collectives, for tensors on the CPU, by MPI.

    import mpilayer.torch
    torch.distributed.init_process_group("mpi4py", init_method="mpi://")
"""

import os
import socket

import numpy as np
import torch
from mpi4py import MPI
from torch import distributed
from torch.distributed import ReduceOp
from torch.distributed.rendezvous import register_rendezvous_handler

from mpilayer.base.errors import UserError
from mpilayer.torch.background import background

NAME, SCHEME = "mpi4py", "mpi"
REDUCED_AS = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.bool: torch.uint8}
OPERATIONS = {ReduceOp.SUM: MPI.SUM, ReduceOp.AVG: MPI.SUM, ReduceOp.PRODUCT: MPI.PROD, ReduceOp.MIN: MPI.MIN,
              ReduceOp.MAX: MPI.MAX, ReduceOp.BAND: MPI.BAND, ReduceOp.BOR: MPI.BOR, ReduceOp.BXOR: MPI.BXOR}


class Work(distributed._Work):
    """What a collective gives: it can be waited for."""

    def __init__(self, future, status=None):
        super().__init__()
        self.future, self.status = future, status

    def wait(self, timeout=None):
        """Return True when it is done. Raises MPI's error."""
        self.future.wait()
        return True

    def get_future(self):
        """torch.futures.Future of the list of tensors that were written."""
        return self.future

    def is_completed(self):
        """Whether it is done."""
        return self.future.done()

    def is_success(self):
        """Whether it is done, without an error."""
        return self.future.done() and self.exception() is None

    def exception(self):
        """MPI's error, or None."""
        try:
            self.future.value()
        except Exception as error:  # whatever it is, it is asked for
            return error
        return None

    def result(self):
        """The tensors that were written."""
        return self.future.value()

    def source_rank(self):
        """Who sent what was received."""
        return self.status.Get_source()

    _source_rank = source_rank


class Memory:
    """Tensors, one after the other, as an array that MPI reads and writes.

    reduced   whether MPI computes with the numbers; if not, they are bytes
    array     (n,) flat; the memory of the tensor itself if there is one and its dtype and layout allow that
    """

    def __init__(self, tensors, reduced=False):
        self.tensors = [tensor.detach() for tensor in tensors]
        for tensor in self.tensors:
            if tensor.device.type != "cpu":
                raise UserError(f"a tensor on {tensor.device} | the backend {NAME} is for tensors on the CPU")
        self.sizes = [tensor.numel() for tensor in self.tensors]
        flat = [tensor.contiguous().view(-1) for tensor in self.tensors]
        self.flat = flat[0] if len(flat) == 1 else torch.cat(flat)
        if reduced:
            self.flat = self.flat.to(REDUCED_AS.get(self.flat.dtype, self.flat.dtype))
        self.item = 1 if reduced else self.flat.element_size()
        self.array = (self.flat if reduced else self.flat.view(torch.uint8)).numpy()

    @property
    def parts(self):
        """(array, (counts, displacements)) of the tensors, for MPI's calls that end in v."""
        counts = np.array(self.sizes) * self.item
        return self.array, (counts, np.cumsum(counts) - counts)

    def back(self):
        """Into the tensors what is in the array; they."""
        for tensor, part in zip(self.tensors, self.flat.split(self.sizes), strict=True):
            if part.data_ptr() != tensor.data_ptr():
                tensor.copy_(part.view(tensor.shape))
        return self.tensors


def _operation(opts):
    """MPI's, of a reduction."""
    for known, operation in OPERATIONS.items():
        if opts.reduceOp == known:
            return operation
    raise UserError(f"{opts.reduceOp} | the backend {NAME} has {', '.join(str(op) for op in OPERATIONS)}")


class ProcessGroup(distributed.ProcessGroup):
    """A group of ranks with a communicator of its own; its methods are those that torch.distributed calls."""

    def __init__(self, rank, size, comm):
        super().__init__(rank, size)
        self.comm, self.thread, self.given_name = comm, background(), ""

    def getBackendName(self):  # noqa: N802
        """mpi4py"""
        return NAME

    def setGroupName(self, name):  # noqa: N802
        """What torch.distributed calls this group."""
        self.given_name = name

    def getGroupName(self):  # noqa: N802
        """That."""
        return self.given_name

    def _work(self, start, finish, status=None):
        """Work of one request."""
        return Work(self.thread.submit(start, finish, status), status)

    def _together(self, works, tensors):
        """Work of several."""
        return Work(torch.futures.collect_all([work.future for work in works]).then(lambda _: tensors))

    def _reduction(self, opts, start, result):
        """Work of a reduction start(operation) whose result is in a Memory."""
        operation, average = _operation(opts), opts.reduceOp == ReduceOp.AVG

        def finish():
            if average:
                result.flat /= self.size()
            return result.back()

        return self._work(lambda: start(operation), finish)

    def broadcast(self, tensors, opts):
        """Of the root's tensor."""
        memory = Memory(tensors)
        return self._work(lambda: self.comm.Ibcast(memory.array, opts.rootRank), memory.back)

    def allreduce(self, tensors, opts):
        """In place; of several tensors, together."""
        memory = Memory(tensors, reduced=True)
        return self._reduction(opts, lambda op: self.comm.Iallreduce(MPI.IN_PLACE, memory.array, op), memory)

    allreduce_coalesced = allreduce

    def reduce(self, tensors, opts):
        """Into the root's tensor."""
        memory = Memory(tensors, reduced=True)
        if self.rank() == opts.rootRank:
            return self._reduction(opts, lambda op: self.comm.Ireduce(MPI.IN_PLACE, memory.array, op, opts.rootRank),
                                   memory)
        operation = _operation(opts)
        return self._work(lambda: self.comm.Ireduce(memory.array, None, operation, opts.rootRank), lambda: tensors)

    def allgather(self, outputs, inputs, opts=None):
        """outputs[0][r] = inputs[0] of rank r."""
        own, all_of = Memory(inputs), Memory(outputs[0])
        return self._work(lambda: self.comm.Iallgatherv(own.array, [*all_of.parts, MPI.BYTE]), all_of.back)

    def all_gather_single(self, output, input, opts=None):
        """output = inputs of all ranks, one after the other; input may be this rank's part of output."""
        all_of = Memory([output])
        part = all_of.array[self.rank() * input.nbytes:][:input.nbytes]
        inside = input.is_contiguous() and part.ctypes.data == input.data_ptr()
        own = MPI.IN_PLACE if inside else Memory([input]).array
        return self._work(lambda: self.comm.Iallgather(own, all_of.array), all_of.back)

    def all_gather_single_coalesced(self, outputs, inputs, opts=None):
        """The same of several tensors."""
        return self._together(list(map(self.all_gather_single, outputs, inputs)), outputs)

    _allgather_base = all_gather_single  # what PyTorch before 2.13 calls them
    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def gather(self, outputs, inputs, opts):
        """outputs[0][r] = inputs[0] of rank r, on the root."""
        own, all_of = Memory(inputs), None
        if self.rank() == opts.rootRank:
            all_of = Memory(outputs[0])
        return self._work(lambda: self.comm.Igatherv(own.array, all_of and [*all_of.parts, MPI.BYTE], opts.rootRank),
                          all_of.back if all_of else list)

    def scatter(self, outputs, inputs, opts):
        """outputs[0] = inputs[0][rank] of the root."""
        own, all_of = Memory(outputs), None
        if self.rank() == opts.rootRank:
            all_of = Memory(inputs[0])
        return self._work(lambda: self.comm.Iscatterv(all_of and [*all_of.parts, MPI.BYTE], own.array, opts.rootRank),
                          own.back)

    def reduce_scatter(self, outputs, inputs, opts):
        """outputs[0] = the reduction of inputs[0][rank] of all ranks."""
        own, all_of = Memory(outputs, reduced=True), Memory(inputs[0], reduced=True)
        return self._reduction(opts, lambda op: self.comm.Ireduce_scatter(all_of.array, own.array, all_of.sizes, op),
                               own)

    def reduce_scatter_single(self, output, input, opts):
        """output = this rank's part of the reduction of input."""
        return self.reduce_scatter([output], [list(input.chunk(self.size()))], opts)

    def reduce_scatter_single_coalesced(self, outputs, inputs, opts):
        """The same of several tensors."""
        return self._together([self.reduce_scatter_single(output, input, opts)
                               for output, input in zip(outputs, inputs, strict=True)], outputs)

    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def alltoall(self, outputs, inputs, opts=None):
        """outputs[r] = inputs[rank] of rank r."""
        from_all, to_all = Memory(outputs), Memory(inputs)
        return self._work(lambda: self.comm.Ialltoallv([*to_all.parts, MPI.BYTE], [*from_all.parts, MPI.BYTE]),
                          from_all.back)

    def all_to_all_single(self, output, input, output_splits, input_splits, opts=None):
        """The same of rows of one tensor each: so many to and from each rank, or as many to each."""
        def rows(tensor, splits):
            return list(tensor.split(splits) if splits else tensor.chunk(self.size()))

        return self.alltoall(rows(output, output_splits), rows(input, input_splits))

    alltoall_base = all_to_all_single

    def barrier(self, opts=None):
        """All ranks have come here."""
        return self._work(self.comm.Ibarrier, list)

    def send(self, tensors, to, tag):
        """To one rank."""
        memory = Memory(tensors)
        return self._work(lambda: self.comm.Isend(memory.array, to, tag), lambda: tensors)

    def recv(self, tensors, source, tag):
        """From one rank."""
        memory, status = Memory(tensors), MPI.Status()
        return self._work(lambda: self.comm.Irecv(memory.array, source, tag), memory.back, status)

    def recv_anysource(self, tensors, tag):
        """From whoever sends first."""
        return self.recv(tensors, MPI.ANY_SOURCE, tag)

    def shutdown(self):
        """Give the communicator back; nothing is on its way."""
        self.thread.submit(self.comm.Ibarrier, self.comm.Free).wait()


def _made(options, _):
    """The ProcessGroup of what torch.distributed says of it; those of its ranks call this together."""
    world = MPI.COMM_WORLD
    members = list(options.global_ranks_in_group) or list(range(world.size))
    if len(members) != options.group_size or members[options.group_rank] != world.rank:
        raise UserError(f"rank {options.group_rank} of {options.group_size} | is rank {world.rank} of {world.size} of"
                        f" MPI | try: init_process_group(\"{NAME}\", init_method=\"{SCHEME}://\")")
    comm = world.Create_group(world.group.Incl(members))
    return ProcessGroup(options.group_rank, options.group_size, comm)


def _rendezvous(url, timeout=distributed.default_pg_timeout, **_):
    """Yield (store, rank, size) as MPI has them; rank 0 holds the store."""
    world, store = MPI.COMM_WORLD, None
    here = len(set(world.allgather(socket.gethostname()))) == 1
    host = os.environ.get("MASTER_ADDR", "127.0.0.1" if here else socket.gethostname())
    if world.rank == 0:
        store = distributed.TCPStore(host, 0, world.size, is_master=True, timeout=timeout, wait_for_workers=False)
    host, port = world.bcast((host, store and store.port))
    yield store or distributed.TCPStore(host, port, world.size, timeout=timeout), world.rank, world.size
    raise UserError(f"{url} | ranks of MPI stay the same: nobody can join again")


def register():
    """Tell torch.distributed of the backend, once."""
    if NAME not in distributed.Backend.backend_list:
        distributed.Backend.register_backend(NAME, _made, extended_api=True, devices=["cpu"])
        register_rendezvous_handler(SCHEME, _rendezvous)
