"""Who is here, how to wait so that others can compute, and how to agree."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpilayer.base import env
from mpilayer.base.errors import AgreedError, UserError

if TYPE_CHECKING:
    import numpy as np
    from mpi4py import MPI

CROWD, TURN = 8, 15e-6  # ranks on a core from which on sleeping beats yielding; seconds a rank holds a core to poll
LONG_NAP = 0.01  # seconds between looks at something that takes many
BUSY, NAP = 0.5, 3e-4  # seconds after which a wait is a long one, and that a rank then leaves a core alone


def _initialised():
    """mpi4py's MPI module, of an MPI that is initialised. Raises UserError."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(f"no MPI library can be loaded ({' '.join(str(error).split())})"
                        " | try: pip install 'mpilayer[mpi]'") from None
    if MPI.Is_finalized():
        raise UserError("MPI has been finalised | expected Ranks to be made before that")
    if not MPI.Is_initialized():
        MPI.Init_thread(MPI.THREAD_MULTIPLE)  # as mpi4py does: a user's own calls may come beside ours
        atexit.register(lambda: MPI.Is_finalized() or MPI.Finalize())
    return MPI


def _check(comm, MPI):
    """Raise ValueError or TypeError unless `comm` is an intracommunicator of this rank's."""
    if comm == MPI.COMM_NULL:
        raise ValueError("comm | expected a communicator that this rank belongs to, got COMM_NULL")
    if not isinstance(comm, MPI.Comm) or comm.Is_inter():
        raise TypeError(f"comm | expected an mpi4py intracommunicator, got {type(comm).__name__}")


class Ranks:
    """The ranks of an mpi4py communicator, by default of COMM_WORLD.

        with mpilayer.Ranks() as ranks: ...

    MPI is used as it is found, and initialised if nobody has done that. Signal handlers, environment variables, and
    what happens when a rank fails stay as they are. The communicator is duplicated, so that messages sent here never
    meet the caller's. All ranks of the communicator make this together, and close it together; closing may be left to
    the end of the program.

    Your own MPI calls may stand between the library's, on communicators of your own. While messages are moved by
    progress="thread", a call of yours, also by the methods here, may coincide with one of that thread: MPI must then
    have been initialised with THREAD_MULTIPLE, as mpi4py and this class do it. With THREAD_SERIALIZED make no call
    while such a queue is open.

    comm         the duplicate, an mpi4py communicator
    rank, size   the number of this rank in it, and how many ranks there are
    node         communicator of the ranks on this node
    neighbours   ranks on this machine
    cores        cores that they may use together
    crowded      whether there are more of them than cores; then a rank that waits gives its core to others
    where        what this rank is doing, in words: a part of messages about errors and long waits

    Raises UserError if no MPI library can be loaded, or if MPI has been finalised; TypeError for what is not an mpi4py
    intracommunicator, ValueError for COMM_NULL; and RuntimeError when it is used after close().
    """

    def __init__(self, comm: MPI.Intracomm | None = None) -> None:
        self.MPI = MPI = _initialised()
        comm = MPI.COMM_WORLD if comm is None else comm
        _check(comm, MPI)
        self._comm = comm.Dup()
        self.rank, self.size = self._comm.rank, self._comm.size
        self._node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.first_node = self.node.bcast(self.rank) == 0
        self.neighbours, self.cores = self._machine()
        self.crowded = self.neighbours > self.cores
        self.patience, self.where = env.get("MPILAYER_PATIENCE"), "start-up"

    @property
    def comm(self) -> MPI.Intracomm:
        """The duplicate."""
        return self._open(self._comm)

    @property
    def node(self) -> MPI.Intracomm:
        """Of the ranks on this node."""
        return self._open(self._node)

    def _open(self, comm):
        if not comm:
            raise RuntimeError("these Ranks are closed | expected no use of them after close() or their `with` block")
        return comm

    def close(self) -> None:
        """Free the communicators; nothing if that is done. All ranks call this together."""
        for comm in (self._node, self._comm):
            if comm:
                comm.Free()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, kind, *_):
        if kind is None:  # else other ranks may be elsewhere
            self.close()

    def _machine(self):
        """Ranks and cores of this machine, which may pass for several nodes."""
        try:
            name = Path("/proc/sys/kernel/random/boot_id").read_text()
        except OSError:
            name = socket.gethostname()
        cores = [cores for other, cores in self.comm.allgather((name, os.sched_getaffinity(0))) if other == name]
        return len(cores), len(set().union(*cores))

    def wait(self, request: MPI.Request, what: str = "") -> None:
        """Return when an mpi4py request has completed; `what` names it, should the wait be long."""
        self.until(request.Test, what)

    def until(self, done: Callable[[], Any], what: str = "") -> None:
        """Return when done() is true. Signals are handled meanwhile; a wait of more than MPILAYER_PATIENCE seconds is
        reported once, on standard error, with `what`.
        """
        start, told = time.monotonic(), False
        while not done():
            waited = time.monotonic() - start
            self._give_way(waited)
            told = told or self._complain(waited, what)

    def _give_way(self, waited):
        """Let the ranks that share this core have it; where they are many, until they all had their turn."""
        crowd = self.neighbours / self.cores
        if crowd > 1 and waited > BUSY:  # it is not a message that is late but a rank: it may need the core for long
            time.sleep(crowd * NAP)
        elif crowd > CROWD:
            time.sleep(crowd * TURN)
        elif crowd > 1:
            os.sched_yield()

    def _complain(self, waited, what):
        if waited < self.patience:
            return False
        print(f"rank {self.rank} | {self.where} | {what or 'a meeting of all ranks'} | "
              f"still waiting after {waited:.0f} s", file=sys.stderr, flush=True)
        return True

    def meet(self, comm: MPI.Intracomm | None = None) -> None:
        """A barrier of all ranks of `comm`, by default of all. Unlike MPI's, it gives the core to others meanwhile; so
        a short blocking call after it finds everyone there.
        """
        self.wait((comm or self.comm).Ibarrier())

    def meet_after(self, comm: MPI.Intracomm) -> None:
        """The same where one has long work to do first: the others sleep, for cores may be halves of one."""
        request = comm.Ibarrier()
        self.until(lambda: request.Test() or time.sleep(LONG_NAP))

    def gather(self, value: Any) -> list[Any]:
        """A list of every rank's value, any Python object, in the order of ranks; on every rank."""
        self.meet()
        return self.comm.allgather(value)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum a float64 array over the ranks, in place, on every rank; the array."""
        self.wait(self.comm.Iallreduce(self.MPI.IN_PLACE, values))
        return values

    def agree(self, action: Callable[[], Any]) -> Any:
        """The result of action(), which every rank calls. If it raises UserError on any rank, all ranks raise
        AgreedError, with the message of the lowest of those.
        """
        result, error = None, None
        try:
            result = action()
        except UserError as failure:
            error = str(failure)
        errors = [(rank, e) for rank, e in enumerate(self.gather(error)) if e]
        if errors:
            rank, message = errors[0]
            everywhere = len(errors) == self.size
            raise AgreedError(message if everywhere or self.size == 1 else f"rank {rank} | {message}")
        return result
