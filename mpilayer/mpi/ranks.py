"""Who is here, how to wait politely, and how to agree."""

import atexit
import os
import socket
import sys
import time
from pathlib import Path

from mpilayer.base import env
from mpilayer.base.errors import AgreedError, UserError

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
        MPI.Init_thread(MPI.THREAD_SERIALIZED)
        atexit.register(lambda: MPI.Is_finalized() or MPI.Finalize())
    return MPI


class Ranks:
    """The ranks of an mpi4py communicator, by default of COMM_WORLD.

        with mpilayer.Ranks() as ranks: ...

    MPI is used as it is found, and initialised if nobody has done that. Signal handlers, environment variables, and
    what happens when a rank fails stay as they are. The communicator is duplicated, so that messages sent here never
    meet the caller's. All ranks of the communicator make this together, and close it together; closing may be left to
    the end of the program.

    comm         the duplicate, an mpi4py communicator
    rank, size   the number of this rank in it, and how many ranks there are
    node         communicator of the ranks on this node
    neighbours   ranks on this machine
    cores        cores that they may use together
    crowded      whether there are more of them than cores; then a rank that waits gives its core to others
    where        what this rank is doing, in words: a part of messages about errors and long waits

    Raises UserError if no MPI library can be loaded, or if MPI has been finalised.
    """

    def __init__(self, comm=None):
        self.MPI = MPI = _initialised()
        self.comm = (MPI.COMM_WORLD if comm is None else comm).Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.first_node = self.node.bcast(self.rank) == 0
        self.neighbours, self.cores = self._machine()
        self.crowded = self.neighbours > self.cores
        self.patience, self.where = env.get("MPILAYER_PATIENCE"), "start-up"

    def close(self):
        """Free the communicators. All ranks call this together."""
        for comm in (self.node, self.comm):
            comm.Free()

    def __enter__(self):
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

    def wait(self, request, what=""):
        """Return when an mpi4py request has completed; `what` names it, should the wait be long."""
        self.until(request.Test, what)

    def until(self, done, what=""):
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

    def meet(self, comm=None):
        """A barrier of all ranks of `comm`, by default of all. Unlike MPI's, it gives the core to others meanwhile; so
        a short blocking call after it finds everyone there.
        """
        self.wait((comm or self.comm).Ibarrier())

    def meet_after(self, comm):
        """The same where one has long work to do first: the others sleep, for cores may be halves of one."""
        request = comm.Ibarrier()
        self.until(lambda: request.Test() or time.sleep(LONG_NAP))

    def gather(self, value):
        """A list of every rank's value, any Python object, in the order of ranks; on every rank."""
        self.meet()
        return self.comm.allgather(value)

    def total(self, values):
        """Sum a float64 array over the ranks, in place, on every rank; the array."""
        self.wait(self.comm.Iallreduce(self.MPI.IN_PLACE, values))
        return values

    def agree(self, action):
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
