"""Who is here, how to wait so that others can compute, and how to agree."""

from __future__ import annotations

import functools
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mpilayer.base import env
from mpilayer.mpi import ulfm
from mpilayer.mpi.agreement import digest
from mpilayer.mpi.flight_recorder import BLOCK, FlightRecorder, NodeRecorders
from mpilayer.mpi.hang_watch import HangWatch
from mpilayer.mpi.initialise import check, initialised
from mpilayer.mpi.meetings import Meetings
from mpilayer.mpi.places import Places

if TYPE_CHECKING:
    from mpi4py import MPI

CROWD, TURN = 8, 45  # ranks on a core from which on sleeping beats yielding; microseconds that a rank polls
LONG_NAP = 0.01  # seconds between looks at something that takes many
BUSY, NAP = 0.5, 300  # seconds after which a wait is a long one; microseconds that a rank then leaves a core alone
NOTICED = 0.05  # seconds after which a wait is written into the flight recorder
TIMEOUT = 600.0  # seconds
MEETING = "a meeting of all ranks"
COLORS, MOST_CORES = 2**31, 8192  # what MPI_Comm_split tells apart; of a machine that Linux can count


def nap(microseconds: int) -> None:
    """Let others have this core for so long; for 0 only if they want it."""
    if microseconds:
        time.sleep(1e-6 * microseconds)
    else:
        os.sched_yield()


class Ranks(Meetings):
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
        self.MPI, self._places = initialised(), None
        MPI = self.MPI
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

    def set_aside(self, spares: int) -> None:
        """Let the last ranks wait for the places of those that die: from here on these are the ranks that work, or on a
        rank that waits, those that do. All ranks call this; it needs ULFM (mpilayer/mpi/ulfm.py).
        """
        self._places = Places(self.MPI, self._comm, spares)
        self._join(self._places.group(), self.timeout)

    @property
    def waits(self) -> bool:
        """Whether this rank works only when another has died."""
        return self._places is not None and self._places.place is None

    def stand_by(self) -> bool:
        """Of a rank that waits: sleep until all is over, which is True, or without_the_dead() must be called."""
        return self._places.stand_by()

    def without_the_dead(self, folder: Path | None = None) -> None:
        """From here on these are the ranks that work and live, in their order, with flight recorders in a folder. All
        of them call this, and those that wait, when MPI has said to one that a rank has died. What was made of the
        communicator before, such as request queues, must not be used any more.
        """
        self._hangs.close()
        comms, timeout = self._revocable(), self.timeout
        comm = self._places.regroup(comms) if self._places else ulfm.survivors(self.MPI, comms)
        self._join(comm, timeout, None if self.waits else folder)

    def part(self) -> None:
        """Nobody will wait for anybody any more: a rank has died, but the work was done."""
        ulfm.revoke(self._revocable())

    def dismiss(self) -> None:
        """The end, for those that wait, too; nothing if none does, or this rank waits."""
        if self._places and not self.waits:
            self._places.dismiss()

    def _revocable(self):
        return [self._comm, self._node, *filter(None, self._communicators)]

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
        some = ulfm.made(self.MPI, self.comm.Split(digest(name) % COLORS), self.comm)
        machine = ulfm.made(self.MPI, some.Split(digest(name) // COLORS % COLORS), some)
        cores = np.zeros(MOST_CORES, np.uint8)
        cores[list(os.sched_getaffinity(0))] = 1
        machine.Allreduce(self.MPI.IN_PLACE, cores, op=self.MPI.MAX)
        found = machine.size, int(cores.sum())
        machine.Free()
        some.Free()
        return found

    def wait(self, request: MPI.Request, what: str = "") -> None:
        """Return when an mpi4py request has completed; `what` names it, should the wait be long."""
        self.until(request.Test, what)

    def until(self, done: Callable[[], Any], what: str = "", rest: Callable[[int], Any] = nap) -> None:
        """Return when done() is true. Signals are handled meanwhile; a wait of more than MPILAYER_PATIENCE seconds is
        reported once, on standard error, with `what`. `rest` is called between two looks, with the microseconds for
        which others should have this core. Raises HangError.
        """
        start, told, noticed, due = time.monotonic(), False, False, self.timeout or math.inf
        while not done():
            waited = time.monotonic() - start
            rest(self._turn(waited))
            noticed = noticed or self._notice(waited, what)
            told = told or self._complain(waited, what)
            if waited > due:
                due = waited + self.check_progress()
        if noticed:
            self.recorder.waiting("")

    def check_progress(self) -> float:
        """Seconds until it is worth looking again. Raises HangError if nothing has moved on any rank for `timeout`."""
        return self._hangs.check()

    def _notice(self, waited, what):
        if waited < NOTICED:
            return False
        self.recorder.waiting(what or MEETING)
        return True

    def _turn(self, waited):
        """Microseconds after which the ranks that share this core, where they are many, all had their turn; else 0."""
        crowd = self.neighbours / self.cores
        if crowd > 1 and waited > BUSY:  # it is not a message that is late but a rank: it may need the core for long
            return round(crowd * NAP)
        return round(crowd * TURN) if crowd > CROWD else 0

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


@functools.cache
def ranks_of_world() -> Ranks:
    """Those of MPI.COMM_WORLD, made once; all ranks call this together the first time."""
    return Ranks()
