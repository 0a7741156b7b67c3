"""Who is here, how to wait so that others can compute, and how to agree."""

from __future__ import annotations

import functools
import math
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpilayer.base import env
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.mpi import ulfm
from mpilayer.mpi.flight_recorder import BLOCK, FlightRecorder, NodeRecorders
from mpilayer.mpi.hang_watch import HangWatch
from mpilayer.mpi.initialise import check, initialised

if TYPE_CHECKING:
    from mpi4py import MPI

CROWD, TURN = 8, 15e-6  # ranks on a core from which on sleeping beats yielding; seconds a rank holds a core to poll
LONG_NAP = 0.01  # seconds between looks at something that takes many
BUSY, NAP = 0.5, 3e-4  # seconds after which a wait is a long one, and that a rank then leaves a core alone
NOTICED = 0.05  # seconds after which a wait is written into the flight recorder
TIMEOUT = 600.0  # seconds
PIECE = 1 << 28  # numbers that are broadcast at a time: MPI 3 counts with an int
MEETING = "a meeting of all ranks"


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
    timeout      seconds, 0 for no limit: a rank that has waited so long raises HangError if no rank has moved meanwhile
    recorder     FlightRecorder of this rank

    Raises UserError if no MPI library can be loaded, or if MPI has been finalised; AgreedError if an environment
    variable makes no sense on any rank; TypeError for what is not an mpi4py intracommunicator, ValueError for
    COMM_NULL; and RuntimeError when it is used after close().
    """

    def __init__(self, comm: MPI.Intracomm | None = None, timeout: float = TIMEOUT) -> None:
        self.MPI = MPI = initialised()
        comm = MPI.COMM_WORLD if comm is None else comm
        check(comm, MPI)
        self._join(ulfm.made(MPI, comm.Dup(), comm), timeout)

    def _join(self, comm, timeout, folder=None):
        """From here on these are the ranks of a communicator."""
        MPI = self.MPI
        self._comm, self._communicators, self.timeout = comm, [], 0
        self.rank, self.size = self._comm.rank, self._comm.size
        self.recorder = FlightRecorder(np.zeros(BLOCK, np.int64), self.rank, self.size)
        self._node = ulfm.made(MPI, comm.Split_type(MPI.COMM_TYPE_SHARED), comm)
        self.first_node = self.node.bcast(self.rank) == 0
        self.neighbours, self.cores = self._machine()
        self.crowded = self.neighbours > self.cores
        self.patience = env.patience()
        self.agree(env.check)
        self.keep_records(folder)
        self._hangs, self.timeout = HangWatch(self), timeout

    def without_the_dead(self) -> None:
        """From here on these are the ranks that live, in their order. All of them call this, when MPI has said to one
        that a rank has died (mpilayer/mpi/ulfm.py). What was made of the communicator before, such as request queues,
        must not be used any more.
        """
        path, timeout = self.recorders.path, self.timeout
        self._hangs.close()
        comm = ulfm.survivors(self.MPI, [self._comm, self._node, *filter(None, self._communicators)])
        self._join(comm, timeout, path and path.parent)

    def keep_records(self, folder: Path | None = None) -> None:
        """Keep the flight recorders in files of a folder, which outlive the ranks, or in memory of the node. All ranks
        call this together, with no queue open. Raises AgreedError if the folder cannot be written to.
        """
        where = self.where
        self.recorders = NodeRecorders(self, folder)
        self.recorder = self.recorders.own
        self.where = where

    def forget_records(self) -> None:
        """Remove the files of keep_records. All ranks call this together."""
        self.recorders.remove()

    @property
    def where(self) -> str:
        """What this rank is doing, in words."""
        return self.recorder.where

    @where.setter
    def where(self, text: str) -> None:
        self.recorder.where = text

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
        self._hangs.close()
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
        reported once, on standard error, with `what`. Raises HangError.
        """
        start, told, noticed, due = time.monotonic(), False, False, self.timeout or math.inf
        while not done():
            waited = time.monotonic() - start
            self._give_way(waited)
            noticed = noticed or self._notice(waited, what)
            told = told or self._complain(waited, what)
            if waited > due:
                due = waited + self._hangs.check()
        if noticed:
            self.recorder.waiting("")

    def _notice(self, waited, what):
        if waited < NOTICED:
            return False
        self.recorder.waiting(what or MEETING)
        return True

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
        print(f"rank {self.rank} | {self.where} | {what or MEETING} | "
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
        mine = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self.wait(self.comm.Iallgather(np.array([mine.size]), sizes))
        everything = np.empty(sizes.sum(), np.uint8)
        self.wait(self.comm.Iallgatherv(mine, [everything, sizes]))
        return [pickle.loads(part) for part in np.split(everything, np.cumsum(sizes)[:-1])]

    def gather_to_first(self, value: Any) -> list[Any] | None:
        """The same on the first rank; None on the others. What is None takes next to nothing on the way."""
        mine = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.empty(self.size if self.rank == 0 else 0, np.int64)
        self.wait(self.comm.Igather(np.array([mine.size]), sizes))
        everything = np.empty(sizes.sum(), np.uint8)
        self.wait(self.comm.Igatherv(mine, [everything, sizes] if self.rank == 0 else None))
        if self.rank > 0:
            return None
        return [pickle.loads(part) for part in np.split(everything, np.cumsum(sizes)[:-1])]

    def bcast(self, value: Any, comm: MPI.Intracomm | None = None) -> Any:
        """The value, any Python object, that the first rank has; on every rank of `comm`, by default of all."""
        comm = comm or self.comm
        mine = np.frombuffer(pickle.dumps(value if comm.rank == 0 else None), np.uint8).copy()
        size = np.array([mine.size])
        self.wait(comm.Ibcast(size))
        mine = mine if comm.rank == 0 else np.empty(size[0], np.uint8)
        self.wait(comm.Ibcast(mine))
        return pickle.loads(mine)

    def broadcast(self, array: np.ndarray, root: int = 0) -> None:
        """Give all ranks the numbers that one of them has in a contiguous array."""
        flat = array.reshape(-1)
        for begin in range(0, flat.size, PIECE):
            self.wait(self.comm.Ibcast(flat[begin:begin + PIECE], root), "the first rank's numbers")

    def duplicate(self) -> MPI.Intracomm:
        """A duplicate of the communicator; all ranks call this together."""
        found, request = self.comm.Idup()
        self.wait(request)
        return self._made(found)

    def split(self, color: int) -> MPI.Intracomm:
        """A communicator of the ranks with the same color; all ranks call this together."""
        return self._made(self.comm.Split(color))

    def _made(self, comm):
        ulfm.made(self.MPI, comm, self.comm)
        self._communicators = [comm, *filter(None, self._communicators)]  # but those that were freed
        return comm

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


@functools.cache
def ranks_of_world() -> Ranks:
    """Those of MPI.COMM_WORLD, made once; all ranks call this together the first time."""
    return Ranks()
