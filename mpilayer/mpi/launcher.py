"""What started the ranks: other ranks that do not come, a launcher that ends, and what MPI leaves on a machine."""

import contextlib
import os
import select
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from mpilayer.base import env
from mpilayer.base.processes import ranks_below
from mpilayer.base.terminal import launcher
from mpilayer.mpi import ulfm

TIMEOUT = 600  # seconds that MPI may take to start
LOOK = 0.2  # seconds between two looks
LAST = 5  # seconds that a rank has to end after its launcher
COMING = 5  # seconds after which all ranks of a machine have been started
LOCAL = "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"  # how many those are
# what launchers tell their ranks, asked only when MPI itself says that this rank is alone: (ranks, rank, launcher)
LAUNCHERS = [("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "Open MPI"),
             ("PMI_SIZE", "PMI_RANK", "MPICH or Intel MPI"), ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "Slurm")]
SEGMENTS = "/dev/shm/mpich_", "/dev/shm/sm_segment."  # shared memory of MPICH and Open MPI, removed at a good end only


def launched_apart(environ, size):
    """(ranks, rank, launcher) if a launcher started several ranks and this MPI does not know of the others."""
    for ranks, rank, name in LAUNCHERS:
        if size == 1 and environ.get(ranks, "1").isdigit() and int(environ.get(ranks, "1")) > 1:
            return int(environ[ranks]), int(environ.get(rank, 0)), name
    return None


@contextlib.contextmanager
def looked_after():
    """A block in which MPI starts: one call, in which Python does nothing, and which waits for all ranks. A child says
    so when that takes long, and ends this process when it takes too long.
    """
    if launched_apart(os.environ, 1) is None:
        yield
        return
    parent = os.getpid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child does next to nothing
        child = os.fork()
    if child == 0:
        _look_after(parent)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _look_after(parent):
    begun, patience, others = time.monotonic(), min(env.patience(), TIMEOUT), Others()
    for limit, more in ((patience, ""), (TIMEOUT, "; this rank gives up")):
        while time.monotonic() < begun + limit:
            time.sleep(LOOK)
            if os.getppid() != parent:
                os._exit(0)
            if others.are_fewer():  # an MPI that can go on without a rank waits for it here, for ever
                _give_up(parent, "another rank of this machine has died")
        _say(f"waiting for the other ranks for {limit:.0f} s{more}")
    _give_up(parent)


class Others:
    """The ranks that the launcher of this one has started, or is about to start, on this machine."""

    def __init__(self):
        self.launcher, self.due = launcher(), time.monotonic() + COMING
        self.count = next((int(os.environ[name]) for name in LOCAL if os.environ.get(name, "").isdigit()), 0)

    def are_fewer(self):
        """Whether one has gone."""
        return bool(self.launcher and time.monotonic() > self.due
                    and len(list(ranks_below(self.launcher))) < self.count)


def _say(what):
    ranks, rank, name = launched_apart(os.environ, 1)
    text = (f"mpilayer: rank {rank} of {ranks} | start of MPI | {what} | expected {name} to start {ranks} ranks that"
            " all come so far | try: what the others have printed\n")
    os.write(2, text.encode())


def _give_up(parent, why=""):
    if why:
        _say(why)
    end_launcher()
    os.kill(parent, signal.SIGKILL)
    os._exit(1)


def end_launcher():
    """Ask the launcher to end the job, where it would take that for a success: Open MPI's does if ranks are killed that
    it may go on without.
    """
    if os.environ.get(ulfm.ENABLED) == "1" and (pid := launcher()):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)


def outlive_not():
    """End this process when its launcher ends: by SIGTERM, and if that does not help, at once. Nothing without one."""
    pid = launcher()
    if pid and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            threading.Thread(target=_follow, args=(os.pidfd_open(pid),), daemon=True).start()


def _follow(descriptor):
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    with contextlib.suppress(OSError):  # where it printed to may be gone as well
        print("mpilayer: the launcher of this rank has ended | expected it to outlive its ranks", file=sys.stderr,
              flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST)
    os._exit(128 + signal.SIGTERM)


def forget_segments(ranks):
    """Take the names of MPI's shared memory away, so that nothing is left behind however the ranks end; all ranks of a
    node have it by now.
    """
    ranks.meet(ranks.node)
    if ranks.node.rank == 0:
        with contextlib.suppress(OSError):
            for name in {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}:
                if name.startswith(SEGMENTS):
                    Path(name).unlink(missing_ok=True)
