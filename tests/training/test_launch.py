"""Runs that are started again after a failure (mpilayer.launch)."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from mpilayer import launch
from mpilayer.base.errors import UserError
from mpilayer.base.processes import ranks_below
from tests.ranks import environment, processes_of, train

LIMIT = 60  # seconds


def begun(place, *words):
    """A launcher's process, whose standard error goes to `place`/log."""
    line = [sys.executable, "-m", "mpilayer.launch", *map(str, words)]
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    with open(place / "log", "w") as log:
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=log, env=environment(PATH=path), cwd=place)


def wait_for(condition, process):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.01)


def ranks_of(process):
    return [psutil.Process(pid) for _, pid in sorted(ranks_below(process.pid))]


def said(place):
    return [line for line in (place / "log").read_text().splitlines() if line.startswith("mpilayer.launch: ")]


def test_killed_ranks_are_lines_in_the_log(tmp_path):
    """Two are killed, at random moments; the bits are those of a run that was not disturbed."""
    options = ("--schedule", "delayed", "--steps", "200", "--batch", "64")
    assert train(2, *options, "--quiet", "--out", tmp_path / "whole").returncode == 0
    saved, moments, victims = tmp_path / "saved", random.Random(7), []
    process = begun(tmp_path, "-n", 2, "--", *options, "--checkpoint", saved, "--checkpoint-every", 20, "--out",
                    tmp_path / "run")
    for victim, number in enumerate((2, 6)):
        wait_for((saved / f"{number:06}").exists, process)
        time.sleep(0.2 * moments.random())
        rank = ranks_of(process)[victim]
        victims.append(rank.pid)
        rank.kill()
    assert process.wait(LIMIT) == 0
    assert [re.search(r"start . of at most 4", line)[0] for line in said(tmp_path)] == [
        f"start {number} of at most 4" for number in (2, 3)]
    for line, victim in zip(said(tmp_path), victims, strict=True):
        assert f"process {victim}, has died" in line
    hashes = {json.loads((tmp_path / name / "run.json").read_text())["final"]["weights_sha256"]
              for name in ("whole", "run")}
    assert len(hashes) == 1
    assert not processes_of(tmp_path)


def test_what_would_fail_again_is_not_started_again(tmp_path):
    process = begun(tmp_path, "-n", 2, "--", "--checkpoint", tmp_path / "saved", "--net", "vgg")
    assert process.wait(LIMIT) == 2
    (line,) = said(tmp_path)
    assert "not started again: --net" in line or "not started again: argument --net" in line
    (tmp_path / "own.py").write_text("from mpilayer.mpi.job import job\nwith job() as ranks:\n    1 / 0\n")
    process = begun(tmp_path, "-n", 2, "--", tmp_path / "own.py")
    assert process.wait(LIMIT) not in (0, 2)
    first, last = said(tmp_path)
    assert "ZeroDivisionError" in first
    assert "failed twice in the same way without a new checkpoint" in last


def test_a_rank_that_stops_when_mpi_has_ended_is_named_and_started_again(tmp_path):
    (tmp_path / "own.py").write_text(
        "import atexit, os, pathlib, signal\n"
        "from mpilayer.mpi.job import job\n"
        "def stop():\n"
        "    if rank == 1 and not pathlib.Path('stopped').exists():\n"
        "        pathlib.Path('stopped').touch()\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
        "atexit.register(stop)\n"
        "with job() as ranks:\n"
        "    rank = ranks.rank\n")
    process = begun(tmp_path, "-n", 2, "--", tmp_path / "own.py")
    assert process.wait(LIMIT) == 0
    (line,) = said(tmp_path)
    assert re.search(r"rank 1, process \d+, is stopped, and the others have ended", line)


def test_no_more_than_so_many_restarts(tmp_path):
    (tmp_path / "own.py").write_text("import os, pathlib\nlog = pathlib.Path('starts')\n"
                                     "log.write_text(f'{log.read_text() if log.exists() else str()}x')\n"
                                     "os._exit(2 + len(log.read_text()))\n")
    process = begun(tmp_path, "-n", 1, "--restarts", 1, "--", tmp_path / "own.py")
    assert process.wait(LIMIT) not in (0, 2)
    assert len(said(tmp_path)) == 2


def test_a_signal_passes_through_and_ends_it(tmp_path):
    saved = tmp_path / "saved"
    process = begun(tmp_path, "-n", 2, "--", "--steps", 100000, "--checkpoint", saved, "--checkpoint-every", 5)
    wait_for((saved / "000001").exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT) == 75
    assert not said(tmp_path)
    assert not processes_of(tmp_path)


def test_no_orphan_is_left(tmp_path):
    saved = tmp_path / "saved"
    process = begun(tmp_path, "-n", 2, "--", "--steps", 100000, "--checkpoint", saved, "--checkpoint-every", 5)
    wait_for((saved / "000001").exists, process)
    process.kill()
    end = time.monotonic() + LIMIT
    while processes_of(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_hosts_that_do_not_answer_are_left_out(monkeypatch, capsys, tmp_path):
    options = launch.parser().parse_args(["-n", "6", "--hosts", "a:2,b:3,c", "--", "--checkpoint", str(tmp_path)])
    made = launch.Launch(options)
    monkeypatch.setattr(made, "_answers", lambda host: host != "b")
    made._leave_out()
    assert (made.hosts, made.ranks) == ({"a": 2, "c": 1}, 3)
    assert capsys.readouterr().err.splitlines() == [
        "mpilayer.launch: host b does not start programs any more: left out",
        "mpilayer.launch: on 3 ranks from here on"]
    command = made._command(made.ranks, made.hosts, ["true"])
    assert command[1:] == ["-n", "3", "-hosts", "a:2,c:1", "true"]
    made.is_open_mpi = True
    command = made._command(made.ranks, made.hosts, ["true", "--on-failure", "shrink"])
    assert command[1:] == ["-n", "3", "--host", "a:2,c:1", "--with-ft", "ulfm", "true", "--on-failure", "shrink"]
    monkeypatch.setattr(made, "_answers", lambda host: False)
    with pytest.raises(UserError, match="no host"):
        made._leave_out()


@pytest.mark.parametrize(("words", "message"), [
    (["-n", "2", "--", "--steps", "5"], "a run without checkpoints would begin anew | try: -- --checkpoint DIR"),
    (["-n", "2", "--steps", "5"], "unrecognized arguments: --steps | try: -- before the options of mpilayer.train"),
    (["-n", "0"], "argument -n: expected a positive whole number"),
    (["-n", "2", "--hosts", "a:x"], "expected HOST:SLOTS"),
    (["-n", "2", "--launcher", "/no/mpiexec", "--", "--checkpoint", "x"], "there is no /no/mpiexec | try: pip install"),
])
def test_mistakes_are_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        launch.main(words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(("error", "seconds", "caused"), [
    ("rank 1 | step 3 | MPI failed (it did)", -0.5, True),
    ("rank 1 | step 3 | MPI failed (it did)", 0.5, True),
    ("rank 0 | step 3 | MPI failed (it did)", -0.5, False),
    ("rank 1 | step 3 | ZeroDivisionError()", -0.5, False),
    ("rank 1 | step 3 | ZeroDivisionError()", 0.5, True),
], ids=["noticed late", "noticed early", "its own", "died of it", "died before"])
def test_who_died_is_the_cause_of_what_others_say_of_mpi(error, seconds, caused):
    """The error came so many seconds after the death was noticed."""
    death = SimpleNamespace(first={0: 7}, moment=100.0)
    cause = "rank 0, process 7, has died; then " if caused else ""
    assert launch._reason([(100.0 + seconds, error)], death, 1) == cause + error
