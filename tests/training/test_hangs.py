"""Whole runs that hang, on emulated hosts: all ranks end in time, and one message names the rank that did not come."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from mpilayer import flight
from tests.ranks import TOP, environment, processes_of, train

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")),
                                reason="making network namespaces needs root, ip and tc")
# Rank 1 does something when its recorder says WHERE, in step 5 or in an evaluation.
PROGRAM = """
import os, signal, subprocess, sys, time
from mpilayer import train
from mpilayer.mpi.flight_recorder import FlightRecorder
from mpilayer.mpi.job import job

where, what = sys.argv[1:3]
def doing(self, text, told=FlightRecorder.doing):
    told(self, text)
    if where in text and (self.where == "evaluation" or self.where.endswith("step 5")):
        exec(what)
with job() as ranks:
    if ranks.rank == 1:
        FlightRecorder.doing = doing
    train.run(ranks, sys.argv[3:])
"""
STOP, CUT, SLEEP = "os.kill(os.getpid(), signal.SIGSTOP)", "subprocess.run('ip link set eth0 down', shell=True)", (
    "time.sleep(999)")
CASES = {  # what rank 1 says where, what it does, how it is named, ranks, options
    "stopped in forward": ("forward conv2", STOP, "it is stopped", 2, "--schedule layerwise --progress kernel"),
    "stopped in backward": ("backward, after fc8", STOP, "it is stopped", 2, "--schedule planned --progress thread"),
    "stopped in evaluation": ("test sample", STOP, "is stopped, as by SIGSTOP", 4, "--schedule delayed --steps 22"),
    "stopped in data reading": ("reading the batch", STOP, "is stopped, as by SIGSTOP", 4, "--schedule ps"),
    "a link cut": ("forward conv2", CUT, "cannot be reached", 2, "--schedule split --progress poll"),
    "a rank that is busy": ("forward conv2", SLEEP, "has not come back", 2, "--schedule oneshot"),
}
LIMIT = 5  # seconds, --timeout


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """{name of a case: (its CompletedProcess, its --out, when it ended)}, of all cases side by side."""
    place = tmp_path_factory.mktemp("hangs")
    assert train(1, "--steps", 1, "--quiet", seconds=300).returncode == 0  # compiling takes longer than a hang may
    (place / "program.py").write_text(PROGRAM)
    jobs = {}
    for name, (where, what, _, ranks, words) in CASES.items():
        out = place / name.replace(" ", "_")
        line = [sys.executable, "-m", "bench", "cluster", "--hosts", 2, "--ranks", ranks, "--rate", "1gbit", "--",
                sys.executable, place / "program.py", where, what, *words.split(), "--timeout", LIMIT, "--out", out]
        jobs[name] = out, subprocess.Popen([*map(str, line)], cwd=TOP, env=environment(), text=True,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    found = {}
    for name, (out, job) in jobs.items():
        said = job.communicate(timeout=120)
        found[name] = subprocess.CompletedProcess(name, job.returncode, *said), out
    yield found
    for process in processes_of(place):
        process.kill()


@pytest.mark.parametrize("name", CASES)
def test_the_rank_that_did_not_come_is_named(ends, name, capsys):
    (done, out), (where, _, named, ranks, words) = ends[name], CASES[name]
    schedule = words.split()[1]
    assert done.returncode not in (0, 2), done.stderr
    [message] = [line for line in done.stderr.splitlines() if line.startswith("mpilayer: ")]
    place = "evaluation | test sample" if "sample" in where else f"{schedule} | step 5 | {where}"
    assert "rank 1 (" in message
    assert named in message
    if named != "cannot be reached":
        assert f"it has been in {place}" in message
    assert re.search(r"\| waiting: .*ranks? 0", message)
    assert not processes_of(out), "mpiexec has ended, and so have all ranks"
    flight.main([str(out / "flight")])
    said = capsys.readouterr().out
    assert all(f"│ {rank} " in said for rank in range(ranks))
