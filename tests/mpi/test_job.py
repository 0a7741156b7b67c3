"""The life of a rank: how it ends, what it leaves behind, and what it does if others do not come, or go first."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mpilayer import flight
from tests.ranks import TOP, aborted, environment, mpiexec, processes_of

LIMIT = 10  # seconds for every rank to be gone


def start(place, count, *words, program=("-m", "mpilayer.train"), **extra):
    """A long run, of one rank without mpiexec; it has come to its second epoch."""
    line = [sys.executable, *program, "--steps", "1000000", "--out", str(place / "out"), *words]
    launcher = [f"{Path(sys.executable).parent}/mpiexec", "-n", str(count)] if count > 1 else []
    job = subprocess.Popen([*launcher, *line], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           start_new_session=True, env=environment(PYTHONUNBUFFERED="1", **extra))
    for line in job.stdout:
        if "epoch   2" in line:
            return job
    raise AssertionError(job.stderr.read())


def end(job, place):
    """What it said; all its processes are gone in time."""
    begun = time.monotonic()
    try:
        out, err = job.communicate(timeout=2 * LIMIT)
        while processes_of(place / "out"):
            assert time.monotonic() < begun + LIMIT
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        for process in processes_of(place / "out"):
            process.kill()
    return out, err


def shared_memory(place):
    """Names in /dev/shm of what a run has mapped, also of what has lost its name since; other runs have others."""
    paths = {area.path for process in processes_of(place / "out") for area in process.memory_maps()}
    return {path.split("/")[3] for path in paths if path.startswith(("/dev/shm/mpich", "/dev/shm/mpilayer"))}


def test_a_terminal_that_is_closed_ends_a_run_without_mpiexec(tmp_path):
    job = start(tmp_path, 1)
    job.send_signal(signal.SIGHUP)
    _, err = end(job, tmp_path)
    assert job.returncode not in (0, None)
    assert "stopped by SIGHUP" in err


@pytest.mark.parametrize("which", ["hydra_pmi_proxy", "mpiexec"])
def test_ranks_end_with_their_launcher_and_leave_no_memory(tmp_path, which):
    job = start(tmp_path, 2)
    memory = shared_memory(tmp_path)
    family = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
    found = [process for process in family if which in process.name()]
    if not found:
        job.terminate()
        end(job, tmp_path)
        pytest.skip(f"this mpiexec has no {which}")
    found[0].kill()
    end(job, tmp_path)
    assert not memory.intersection(os.listdir("/dev/shm"))


def test_killed_ranks_leave_no_memory(tmp_path):
    job = start(tmp_path, 3)
    memory = shared_memory(tmp_path)
    for process in processes_of(tmp_path / "out"):
        if process.name().startswith("python"):
            process.kill()
    end(job, tmp_path)
    assert not memory.intersection(os.listdir("/dev/shm"))


def test_a_record_of_a_live_run_is_written_when_asked_for(tmp_path, capsys):
    """In its folder, or without one in that of temporary files."""
    job = start(tmp_path, 2)
    for process in processes_of(tmp_path / "out"):
        if process.name().startswith("python"):
            process.send_signal(signal.SIGUSR2)
    folder = str(tmp_path / "out" / "flight")
    said = ""
    while said.count("flight recorder in") < 2:
        said += job.stderr.readline()
    flight.main([folder])
    job.send_signal(signal.SIGINT)
    end(job, tmp_path)
    for rank in range(2):
        assert f"mpilayer: rank {rank} | " in said
    assert said.count(f"flight recorder in {folder}") == 2
    assert re.search(r"layerwise \| step|evaluation", " ".join(capsys.readouterr().out.split()))


FIRST = """
import sys
from mpilayer.mpi import launcher
launcher.TIMEOUT = 3
from mpilayer import train
train.main(sys.argv[1:])
"""


def test_a_rank_that_fails_before_mpi_starts_is_no_hang(tmp_path):
    (tmp_path / "first.py").write_text(FIRST)
    done = mpiexec(1, tmp_path / "first.py", "--steps", 3, ":", "-n", 1, sys.executable, "-c", "raise SystemExit(1)",
                   MPILAYER_PATIENCE="1")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("mpilayer: ")]
    assert len(said) == 2
    assert all(line.startswith("mpilayer: rank 0 of 2 | start of MPI | waiting for the other ranks") for line in said)
    assert "gives up" in said[1]


ENDS = """
import os, signal, sys
from mpilayer.mpi.job import job
numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2
def own(*_): pass
for number in numbers:
    signal.signal(number, own)
try:
    with job() as ranks:
        exec(sys.argv[1])
finally:
    sys.stdout.write(f"{all(signal.getsignal(number) is own for number in numbers)} ")
"""


def ended(code, count=2):
    return mpiexec(count, "-c", ENDS, code)


@pytest.mark.parametrize("code", ["pass", "sys.exit(0)", "sys.exit()"])
def test_a_good_end_is_no_abort_and_handlers_are_put_back(code):
    done = ended(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["True"] * 2


@pytest.mark.parametrize(("code", "status", "told"), [
    ("ranks.rank == 1 and sys.exit(3)", 3, "rank 1 | start-up | sys.exit(3)"),
    ("ranks.rank == 1 and sys.exit('no more')", 1, "rank 1 | start-up | sys.exit('no more')"),
    ("raise MemoryError('Unable to allocate 9 TiB')", 1, "memory (Unable to allocate 9 TiB) | try: a smaller"),
    ("raise ranks.MPI.Exception(ranks.MPI.ERR_NO_MEM)", 1, "not enough memory"),
])
def test_other_ends_are_said_once_and_are_the_exit_status(code, status, told):
    done = ended(code)
    assert aborted(done, status)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("mpilayer: ")]
    assert told in line
    assert "Traceback" not in done.stderr


def test_nobody_reads_on(tmp_path):
    line = f"{sys.executable} -m mpilayer.train --epochs 30 | head -2"
    done = subprocess.run(line, shell=True, cwd=TOP, env=environment(), capture_output=True, text=True, timeout=60)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_a_signal_while_modules_are_imported_is_no_traceback(tmp_path):
    """The first module that is imported after the package tells when."""
    (tmp_path / "h5py.py").write_text("import os, time; open(os.environ['TOLD'], 'w').close(); time.sleep(9)")
    job = subprocess.Popen([sys.executable, "-m", "mpilayer.train"], cwd=TOP, stderr=subprocess.PIPE, text=True,
                           env=environment(PYTHONPATH=f"{tmp_path}:{TOP}", TOLD=str(tmp_path / "told")))
    while not (tmp_path / "told").exists():
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    assert job.communicate(timeout=30)[1] == ""
    assert job.returncode == -signal.SIGINT


MACHINES = """
import sys
from mpilayer.mpi.ranks import Ranks
from mpilayer import train
Ranks._machine = lambda self: (2, 1) if self.rank < 2 else (1, 1)  # two ranks on one core, one on another machine
train.main(sys.argv[1:])
"""


def test_two_machines_of_which_one_is_crowded(tmp_path):
    (tmp_path / "machines.py").write_text(MACHINES)
    for progress in ("auto", "thread"):
        done = mpiexec(3, tmp_path / "machines.py", "--steps", 3, "--quiet", "--progress", progress)
        assert (done.returncode, done.stderr) == (0, "")


STOPS_LAST = """
import os, signal
from mpilayer.mpi.job import job
with job() as ranks:
    ranks.timeout = 2
if ranks.rank == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_rank_that_stops_before_mpi_ends_holds_nobody_up():
    done = mpiexec(2, "-c", STOPS_LAST, seconds=30)
    assert aborted(done, signal.SIGALRM)
    assert done.stderr.count("mpilayer: ") == 1
    assert "| rank 1 (" in done.stderr
    assert "is stopped, as by SIGSTOP" in done.stderr
    assert "waiting: rank 0 for all ranks in the end of the job | MPI_Finalize" in done.stderr
