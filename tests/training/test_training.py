"""The main job as users start it."""

import json
import os
import re
import shutil

import h5py
import numpy as np
import pytest

from tests.ranks import TOP, mpiexec, train


@pytest.mark.parametrize(("count", "words"), [(3, "delayed --delay 1")])
def test_digits_reach_97_percent_with_default_settings(count, words, tmp_path):
    done = train(count, "--schedule", *words.split(), "--quiet", "--out", tmp_path, seconds=150)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run.json").read_text())["final"]["test_accuracy"] >= 0.97


def test_schedules_that_are_the_same_give_the_same_bits(tmp_path):
    hashes = set()
    for schedule in ("oneshot", "delayed --delay 0 --chunk 16k --bucket 0"):
        out = tmp_path / schedule
        done = train(2, "--schedule", *schedule.split(), "--steps", "12", "--quiet", "--out", out)
        assert done.returncode == 0, done.stderr
        hashes.add(json.loads((out / "run.json").read_text())["final"]["weights_sha256"])
    assert len(hashes) == 1


def test_an_adaptive_delay_trains_and_says_what_it_does():
    done = train(2, "--schedule", "delayed", "--delay", "auto", "--epochs", "4", seconds=100)
    assert done.returncode == 0, done.stderr
    assert "schedule delayed (delay auto)" in done.stdout


def test_every_setting_of_messages_trains(tmp_path):
    """A run of each of some that have nothing in common."""
    for words in ("--progress kernel --wire bfloat16 --error-feedback --bucket 8k --chunk 32k",
                  "--progress thread --reduction ordered --schedule planned --bucket none --chunk none",
                  "--progress none --apply completion", "--precision bfloat16 --wire bfloat16"):
        out = tmp_path / words
        done = train(2, *words.split(), "--steps", "30", "--quiet", "--out", out)
        assert done.returncode == 0, done.stderr
        first, second = json.loads((out / "run.json").read_text())["epochs"]
        assert second["train_loss"] < 0.9 * first["train_loss"]


COUNTING = """
import atexit, os
from numba.core import event
from mpilayer.train import main

class Count(event.Listener):
    found = 0
    def on_start(self, _):
        self.found += 1
    def on_end(self, _):
        pass

count = Count()
event.register("numba:compile", count)
atexit.register(lambda: print(f"rank {os.environ['PMI_RANK']} compiled {count.found}", flush=True))
main()
"""


@pytest.mark.parametrize("count", [3])
def test_ranks_of_a_node_share_out_what_is_compiled(tmp_path, count):
    """Where kernels are missing, here of some rooms in a copy: one line says so, no function is compiled by two ranks,
    and as many ranks as there are cores compile.
    """
    for package in ("kernels", "mpilayer", "nets"):
        shutil.copytree(TOP / package, tmp_path / package)
    def run(ranks, *words):
        return mpiexec(ranks, tmp_path / "job.py", *words, seconds=150, NUMBA_CACHE_DIR="", NUMBA_DEBUG_CACHE="1",
                       PYTHONPATH=str(tmp_path))

    (tmp_path / "job.py").write_text(COUNTING)
    assert run(1, "--steps", "1").returncode == 0  # where the checkout itself has nothing compiled
    rooms = [tmp_path / "kernels" / room / "__pycache__" for room in ("activation", "loss", "pool", "norm", "update")]
    for index in (index for room in rooms for index in room.glob("*.nbi")):
        index.unlink()
    done = run(count, "--epochs", "1", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compiling the kernels, once on this machine") == 1
    saved = [line for line in done.stdout.splitlines() if "data saved to" in line]
    assert len(saved) == len(set(saved))
    assert all(any(f"'{room}/" in line for line in saved) for room in rooms), saved
    compiled = {int(rank): int(found) for rank, found in re.findall(r"rank (\d+) compiled (\d+)", done.stdout)}
    assert set(compiled) == set(range(count))
    assert all(compiled[rank] > 0 for rank in range(min(count, len(os.sched_getaffinity(0)))))


def test_many_ranks_start_and_train(tmp_path):
    done = train(12, "--steps", "4", "--quiet", "--out", tmp_path, seconds=100)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["environment"]["ranks"] == 12
    assert len(run["epochs"]) == 1


def test_a_full_size_net_trains_on_two_ranks(tmp_path):
    data = tmp_path / "few.h5"
    with h5py.File(data, "w") as file:
        file["x"] = np.random.default_rng(0).random((16, 224, 224, 3), np.float32)
        file["y"], file.attrs["classes"] = np.arange(16), 1000
    done = train(2, "--net", "googlenet", "--data", data, "--batch", "4", "--steps", "2", "--quiet", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run.json").read_text())["epochs"][0]["images_per_second"] > 0


def test_runs_without_mpiexec_from_any_folder(tmp_path):
    import subprocess
    import sys

    from tests.ranks import environment

    done = subprocess.run([sys.executable, "-m", "mpilayer.train", "--steps", "3"], cwd=tmp_path, env=environment(),
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "1 ranks, 1 on this machine" in done.stdout


@pytest.mark.parametrize(("count", "threads"), [(1, 1), (1, 64), (2, 1)])
def test_one_rank_on_several_cores_says_that_more_are_faster(count, threads):
    done = train(count, "--steps", "1", KERNELS_NUM_THREADS=str(threads))
    cores = len(os.sched_getaffinity(0))
    told = f"one of {cores} cores computes | try: mpiexec -n {cores} python -m mpilayer.train ..." in done.stdout
    assert told == (count == threads == 1 and cores > 1), done.stdout


def test_googlenet_mini_learns():
    done = train(2, "--net", "googlenet-mini", "--epochs", "12", seconds=120)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "epoch " in line]
    assert float(lines[-1].split("accuracy")[1].split("%")[0]) > 60, lines


def test_other_programs_find_the_package_installed():
    assert mpiexec(1, "-c", "import kernels, nets, bench, mpilayer; print(mpilayer.__version__)").stdout == "0.1.0\n"
