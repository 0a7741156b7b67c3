"""The main job is killed, stopped by signals, and resumed: it ends with the bits of one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import psutil
import pytest

import mpilayer
import nets
from mpilayer.base.errors import UserError
from mpilayer.base.processes import ranks_below
from mpilayer.export import main as export
from mpilayer.train import NET
from mpilayer.training.options import read_options
from nets.state_dict import take
from tests.ranks import TOP, _launcher, environment, mpiexec, train

EPOCHS = "20"  # the second signal must find it at work


def last(folder):
    return json.loads((folder / "run.json").read_text())


def begun(count, *options, log):
    """The main job, not waited for."""
    line = [_launcher(), "-n", str(count), sys.executable, "-m", "mpilayer.train", *map(str, options)]
    return subprocess.Popen(line, cwd=TOP, env=environment(), stdin=subprocess.DEVNULL, stdout=open(log, "w"),  # noqa: SIM115
                            stderr=subprocess.STDOUT, text=True)


def wait_for(what, process, seconds=40):
    end = time.monotonic() + seconds
    while not what() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def ranks_of(process):
    """The processes of its ranks."""
    return [psutil.Process(pid) for _, pid in sorted(ranks_below(process.pid))]


def test_killed_at_random_moments(tmp_path):
    options = ("--schedule", "delayed:2+wire=bfloat16+error-feedback", "--steps", "30", "--chunk", "32k", "--bucket",
               "4k")
    assert train(2, *options, "--quiet", "--out", tmp_path / "whole").returncode == 0
    resumed = (*options, "--checkpoint", tmp_path / "saved", "--checkpoint-every", "3", "--resume", "--out",
               tmp_path / "run")
    moments = random.Random(str(options))
    for attempt in range(2):
        process = begun(2, *resumed, log=tmp_path / "log")
        wait_for((tmp_path / "saved" / f"{2 + 3 * attempt:06}").exists, process)
        time.sleep(0.3 * moments.random())
        victims = ranks_of(process)
        if victims:
            victims[attempt % len(victims)].kill()
        process.wait(20)
    done = train(2, *resumed)
    assert done.returncode == 0, done.stderr
    assert "resumed after" in done.stdout
    whole, found = last(tmp_path / "whole"), last(tmp_path / "run")
    assert len(found["final"]["resumed"]) >= 1
    assert whole["final"]["resumed"] == []
    assert found["final"]["weights_sha256"] == whole["final"]["weights_sha256"]
    for mine, theirs in zip(found["epochs"], whole["epochs"], strict=True):
        assert (mine["train_loss"], mine["test_accuracy"]) == (theirs["train_loss"], theirs["test_accuracy"])


def test_a_signal_makes_a_checkpoint_and_the_status_says_try_again(tmp_path):
    options = ("--epochs", EPOCHS, "--checkpoint", tmp_path / "saved", "--resume", "--jitter", "1")
    for number, which in ((signal.SIGUSR1, "launcher"), (signal.SIGTERM, 1)):
        saved = len(list(tmp_path.glob("saved/0*")))
        process = begun(2, *options, log=tmp_path / "log")
        wait_for(lambda saved=saved: len(list(tmp_path.glob("saved/0*"))) > saved, process)
        os.kill(process.pid if which == "launcher" else ranks_of(process)[which].pid, number)
        assert process.wait(20) == 75
        log = (tmp_path / "log").read_text()
        assert "stopped by a signal after" in log
        assert "mpilayer: " not in log
    done = train(2, *options, "--out", tmp_path / "run")
    assert done.returncode == 0
    assert train(2, "--epochs", EPOCHS, "--out", tmp_path / "whole").returncode == 0
    sums = [last(tmp_path / name)["final"]["weights_sha256"] for name in ("run", "whole")]
    assert sums[0] == sums[1]


def test_asynchronous_ranks_apply_every_gradient_once(tmp_path):
    """Counted by how stale they were: one count for each gradient of a layer."""
    for words in (("ps", "--staleness", "none", "--servers", "1"),):
        options = ("--schedule", *words, "--epochs", "1", "--checkpoint", tmp_path / words[0], "--checkpoint-every",
                   "4", "--resume", "--out", tmp_path / "run", "--slow", "1:3")
        process = begun(3, *options, log=tmp_path / "log")
        wait_for((tmp_path / words[0] / "000001").exists, process)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 75, (tmp_path / "log").read_text()
        done = train(3, *options)
        assert done.returncode == 0, done.stderr
        assert "resumed after" in done.stdout
        final = last(tmp_path / "run")["final"]
        computing, layers = (2, 8) if words[0] == "ps" else (3, 8)
        assert sum(final["staleness"].values()) == 22 * computing * layers
        assert final["replicas"] == "equal"


def test_another_number_of_ranks(tmp_path):
    saved, out = tmp_path / "saved", tmp_path / "run"
    options = ("--schedule", "delayed", "--delay", "1", "--net", "resnet-mini", "--batch-statistics", "all", "--steps",
               "6", "--batch", "16", "--checkpoint", saved, "--resume", "--out", out)
    assert train(1, *options, "--checkpoint-every", "4").returncode == 0
    whole = mpilayer.load(out).arrays
    for path in sorted(saved.iterdir())[1:]:
        path.rename(tmp_path / path.name)  # that of the end
    done = train(3, *options)
    assert done.returncode == 0, done.stderr
    assert "resumed after 4 steps" in done.stdout
    assert "of a run on 1 rank" in " ".join(done.stdout.split())
    for name, array in mpilayer.load(out).arrays.items():
        assert np.abs(array - whole[name]).max() <= 1e-3 * max(1, np.abs(whole[name]).max()), name
    own = ("--schedule", "gossip", "--steps", "3", "--checkpoint", tmp_path / "own", "--resume")
    assert train(2, *own).returncode == 0
    refused = train(3, *own)
    assert refused.returncode == 2
    assert "is of 2 ranks, each of which has" in refused.stderr
    assert "try: mpiexec -n 2" in refused.stderr


def test_what_is_not_as_it_was_is_said_or_refused(tmp_path):
    options = ("--schedule", "planned", "--epochs", "1", "--checkpoint", tmp_path / "saved", "--resume")
    assert train(1, *options).returncode == 0
    ended = train(1, *options)
    assert ended.returncode == 0, ended.stderr
    assert "resumed after 22 steps" in ended.stdout
    done = train(1, *options, "--lr", "0.001", "--epochs", "2")
    assert "--lr is 0.001, and was 0.007 so far" in done.stdout
    assert "epoch   2" in done.stdout
    refused = train(1, *options, "--batch", "32")
    assert refused.returncode == 2
    assert "is of a run with --batch 64 | expected 32 | try: --batch 64" in refused.stderr


@pytest.mark.parametrize("option", [("--resume",), ("--keep", "3"), ("--checkpoint-every", "5")])
def test_options_of_checkpoints_need_a_folder(option):
    with pytest.raises(UserError, match=f"{option[0]} goes with --checkpoint . try: --checkpoint DIR"):
        read_options(option, NET, 1)


@pytest.mark.parametrize("text", ["0", "s", "-3", "1.5", "10m", ""])
def test_intervals_that_are_none(text):
    with pytest.raises(UserError, match="expected steps as in 100, seconds as in 30s, or epoch"):
        read_options(["--checkpoint", "x", f"--checkpoint-every={text}"], NET, 1)


def test_weights_of_a_run_are_of_use(tmp_path):
    run = tmp_path / "run"
    assert train(2, "--net", "resnet-mini", "--epochs", "1", "--out", run).returncode == 0
    final = last(run)["final"]
    found = mpilayer.load(run)
    assert found.about["weights_sha256"] == final["weights_sha256"]
    net = nets.build("resnet-mini", classes=10, shape=(8, 8, 1), seed=9)
    take(net, found.arrays)
    assert net.weights_sha256() == final["weights_sha256"]
    evaluated = mpiexec(1, "-m", "mpilayer.evaluate", run)
    assert f"accuracy {final['test_accuracy']:.2%}" in evaluated.stdout
    assert f"loss {final['test_loss']:.4f}" in evaluated.stdout
    assert (run / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    export([str(run), str(tmp_path / "net.safetensors")])
    for weights in (run, tmp_path / "net.safetensors"):
        again = train(1, "--net", "resnet-mini", "--lr", "0", "--momentum", "0", "--steps", "1", "--weights", weights,
                      "--out", tmp_path / "again")
        assert again.returncode == 0, again.stderr
        assert last(tmp_path / "again")["final"]["weights_sha256"] == final["weights_sha256"]
    other = train(2, "--net", "resnet-mini", "--steps", "1", "--weights", run, "--data", "synthetic", "--classes", "3",
                  "--shape", "8x8x1")
    assert "classifier is new: in" in other.stdout


@pytest.mark.parametrize(("name", "content", "told"), [
    ("none.h5", None, "no such file"),
    ("bad.h5", b"no HDF5", "cannot be read"),
    ("bad.safetensors", b"\xff" * 30, "cannot be read"),
    ("other.h5", {"x": 1}, "expected mpilayer weights, version 1, got None"),
])
def test_what_holds_no_weights_is_an_error(name, content, told, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content:
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = 1
    with pytest.raises(UserError, match=told) as caught:
        mpilayer.load(tmp_path / name)
    assert "try: " in str(caught.value)
