"""Which process of a job ends first: its launcher, which then kills all others, cannot tell. Linux only."""

import contextlib
import os
import re
import select
import threading
import time
from pathlib import Path

RANK = re.compile(rb"(?:^|\0)(?:PMI_RANK|OMPI_COMM_WORLD_RANK|SLURM_PROCID)=(\d+)\0")
LOOK = 100  # milliseconds
OFTEN, AT_FIRST = 10, 3  # milliseconds, for so many seconds: a rank may die as soon as it is there
STARTING = 30  # seconds in which ranks appear


def _read(pid, what):
    """A file of the system about a process; nothing if that has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{what}").read_bytes()
    return b""


def state(pid):
    """Of a process, as /proc has it: R, S, T, ...; an empty text if there is no such process."""
    return (_read(pid, "stat").rpartition(b")")[2].split() or [b""])[0].decode()


def _threads(pid):
    """Of a process: each has the children that it has started."""
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def ranks_below(pid):
    """Yield (rank, number) of the processes below a launcher that are ranks; what a rank has started is none."""
    for child in (int(child) for thread in _threads(pid) for child in _read(pid, f"task/{thread}/children").split()):
        if found := RANK.search(_read(child, "environ")):
            yield int(found[1]), child
        else:
            yield from ranks_below(child)


class FirstDeath:
    """Watches the ranks that a launcher has started on this host, in a thread that ends when one of them does.

    first    {rank: pid} of the one that ended first, or of those that had when it was seen; empty as long as all live,
             and where that cannot be seen
    moment   when it was seen, on the monotonic clock
    """

    def __init__(self, launcher):
        self.launcher, self.first, self.moment = launcher, {}, None
        self.thread = threading.Thread(target=self._watch, daemon=True)
        if hasattr(os, "pidfd_open"):
            self.thread.start()

    def _watch(self):
        poll, found, begun, since = select.poll(), {}, time.monotonic(), 0.0
        while (not (ended := poll.poll(OFTEN if since < AT_FIRST else LOOK))
               and Path(f"/proc/{self.launcher}").exists()):
            since = time.monotonic() - begun
            if since < STARTING:
                self._look(poll, found)
        if ended:
            self.moment, self.first = time.monotonic(), dict(sorted(found[descriptor] for descriptor, _ in ended))
        for descriptor in found:
            os.close(descriptor)

    def _look(self, poll, found):
        """For ranks that are not watched yet; found = {descriptor: (rank, pid)}."""
        known = {pid for _, pid in found.values()}
        for rank, pid in ranks_below(self.launcher):
            if pid not in known:
                with contextlib.suppress(OSError):
                    descriptor = os.pidfd_open(pid)
                    found[descriptor] = rank, pid
                    poll.register(descriptor, select.POLLIN)
