"""Run test bodies, and whole programs, on real ranks: a plain pytest starts mpiexec itself, with a time limit.

    @on_ranks(2, 3)
    def test_something(ranks): ...      runs once for each number of ranks; `ranks` is mpilayer.comm.Ranks
"""

import functools
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
LAUNCHER = ("PMI", "MPI_", "OMPI_", "PMIX_", "SLURM_", "HYDRA_", "HYDI_")  # what an mpiexec around pytest would leave


def environment(**extra):
    """A scrubbed environment: no other launcher's variables, one thread, this checkout first."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER)}
    return {**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(TOP), **extra}


def python(program, env, seconds=60):
    """Run a program in a process of its own; a CompletedProcess with text output."""
    return subprocess.run([sys.executable, "-c", program], cwd=TOP, env=env, capture_output=True, text=True,
                          timeout=seconds)


def mpiexec(count, *command, seconds=60, **extra):
    """Run `python command` on `count` ranks; a CompletedProcess with text output. Fails the test past its time."""
    launcher = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    line = [launcher, "-n", str(count), sys.executable, *map(str, command)]
    try:
        return subprocess.run(line, capture_output=True, text=True, timeout=seconds, env=environment(**extra))
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{' '.join(line)} took more than {seconds} s\n{late.stdout}\n{late.stderr}")


def train(count, *options, seconds=60, **extra):
    """Run the main job on `count` ranks."""
    return mpiexec(count, "-m", "mpilayer.train", *options, seconds=seconds, **extra)


def on_ranks(*counts, seconds=60):
    """Let a test's body, a function of `ranks`, run on each of these numbers of ranks, for so long at most."""
    def decorate(body):
        @pytest.mark.parametrize("count", counts)
        @functools.wraps(body, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
        def test(count):
            done = mpiexec(count, "-m", "tests.ranks", body.__module__, body.__qualname__, seconds=seconds)
            assert done.returncode == 0, done.stdout + done.stderr

        del test.__wrapped__  # pytest would ask for the body's arguments
        test.body = body
        return test

    return decorate


if __name__ == "__main__":
    from mpilayer import comm

    everyone = comm.start()
    with everyone.stopping_together():
        getattr(importlib.import_module(sys.argv[1]), sys.argv[2]).body(everyone)
