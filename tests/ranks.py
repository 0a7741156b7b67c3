"""Run test bodies, and whole programs, on real ranks: a plain pytest starts mpiexec itself, with a time limit.

    @on_ranks(2, 3)
    def test_something(ranks): ...      runs once for each number of ranks; `ranks` is mpilayer.Ranks
"""

import contextlib
import functools
import importlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

TOP = Path(__file__).parent.parent
DONE = "\x1e a body has come to its end on all ranks\n"
LAUNCHER = ("PMI", "MPI_", "OMPI_", "PMIX_", "SLURM_", "HYDRA_", "HYDI_")  # what an mpiexec around pytest would leave


def environment(**extra):
    """A scrubbed environment: no other launcher's variables, one thread, this checkout first; who waits lets others go.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER)}
    return {**kept, "MPIR_CVAR_POLLS_BEFORE_YIELD": "1", "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(TOP), **extra}


def python(program, env, seconds=60):
    """Run a program in a process of its own; a CompletedProcess with text output."""
    return subprocess.run([sys.executable, "-c", program], cwd=TOP, env=env, capture_output=True, text=True,
                          timeout=seconds)


def processes_of(folder):
    """Living processes that have a path below the folder on their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _launcher():
    return shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def mpiexec(count, *command, seconds=60, **extra):
    """Run `python command` on `count` ranks; a CompletedProcess with text output. Fails the test past its time."""
    line = [_launcher(), "-n", str(count), sys.executable, *map(str, command)]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=seconds, env=environment(**extra))
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{' '.join(line)} took more than {seconds} s\n{late.stdout}\n{late.stderr}")


def aborted(done, status):
    """Whether a job ended by MPI_Abort with that status. Once in a hundred times MPICH's launcher gives the signal that
    it has killed the other ranks with in its place; then nothing can be said.
    """
    return done.returncode in (status, signal.SIGKILL)


def train(count, *options, seconds=60, **extra):
    """Run the main job on `count` ranks."""
    return mpiexec(count, "-m", "mpilayer.train", *options, seconds=seconds, **extra)


class Job:
    """So many ranks that run one test's body after another: starting them takes longer than most bodies do.

    threads   "multiple" if several threads of a rank may call MPI at a time, else as in the main job
    """

    def __init__(self, count, threads=""):
        self.line = [_launcher(), "-n", str(count), sys.executable, "-m", "tests.ranks", threads]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - for as long as it lives
        self.process = subprocess.Popen(self.line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True, env=environment())
        self.lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def run(self, body, seconds):
        """Run a body; what its ranks said if they did not come to its end, else nothing. Fails the test past its time.
        """
        print(body.__module__, body.__qualname__, file=self.process.stdin, flush=True)
        said, end = [], time.monotonic() + seconds
        try:
            while (line := self.lines.get(timeout=max(0, end - time.monotonic()))) not in (DONE, None):
                said.append(line)
        except queue.Empty:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"{body.__qualname__} on {self.line[2]} ranks took more than {seconds} s\n{self._said(said)}")
        if line is None:
            self.process.wait()
            return self._said(said) or "the ranks ended without a word"
        return ""

    def _said(self, lines):
        self.errors.seek(0)
        return "".join(lines) + self.errors.read()

    def close(self):
        """End it, if it has not ended."""
        self.process.stdin.close()
        self.process.wait()


JOBS = {}  # those of one folder, which are alive


def job(module, count):
    """The job of so many ranks for the tests of a module's folder; those of other folders end."""
    folder = module.rpartition(".")[0]
    wanted = folder, count, getattr(sys.modules[module], "THREADS", "")
    for key in list(JOBS):
        if key[0] != folder or JOBS[key].process.poll() is not None:
            JOBS.pop(key).close()
    if wanted not in JOBS:
        JOBS[wanted] = Job(*wanted[1:])
    return JOBS[wanted]


def on_ranks(*counts, seconds=60):
    """Let a test's body, a function of `ranks`, run on each of these numbers of ranks, for so long at most."""
    def decorate(body):
        @pytest.mark.parametrize("count", counts)
        @functools.wraps(body, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        def test(count):
            failure = job(body.__module__, count).run(body, seconds)
            assert not failure, failure

        del test.__wrapped__  # pytest would ask for the body's arguments
        test.body = body
        return test

    return decorate


def next_body(ranks):
    """The body that rank 0 was told to run, on every rank, or nothing at the end; those that wait leave their core."""
    text = np.zeros(200, np.uint8)
    if ranks.rank == 0:
        line = sys.stdin.readline().encode()
        text[:len(line)] = list(line)
    request, nap = ranks.comm.Ibcast(text), 0.002
    while not request.Test():
        time.sleep(nap := min(1.1 * nap, 0.1))
    return bytes(text).rstrip(b"\0").decode().split()


if __name__ == "__main__":
    if sys.argv[1] == "multiple":
        from mpi4py import MPI  # noqa: F401 - this initialises it so

    from mpilayer.mpi import job

    everyone = job.start()
    with job.stopping_together(everyone):
        while found := next_body(everyone):
            getattr(importlib.import_module(found[0]), found[1]).body(everyone)
            everyone.meet()
            if everyone.rank == 0:
                print(DONE, end="", flush=True)
