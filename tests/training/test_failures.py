"""Whatever goes wrong: one message a user can act on, every rank gone within seconds, nothing left behind."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import psutil
import pytest

import nets
from mpilayer import train as main_job
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.training import record as run_record
from mpilayer.training.record import prepare_folder
from mpilayer.training.trainer import Trainer
from tests.ranks import aborted, environment, mpiexec, on_ranks, train

LIMIT = 10  # seconds for every rank to be gone: the requirement
IMAGES = np.zeros((40, 32, 32, 3), np.float32)
LABELS = np.arange(40) % 4
DIVIDE = """
import sys
from mpilayer import train
def step(self, t, *arguments, real=train.Trainer.step):
    if t >= 3 and self.ranks.rank == 1:  # later where a shared counter decides who takes which step
        return 1 / 0
    return real(self, t, *arguments)
train.Trainer.step = step
train.main(sys.argv[1:])
"""


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile the kernels first: that may take longer than a failure may."""
    assert train(1, "--steps", 1, "--quiet", seconds=300).returncode == 0


def ranks_below(folder):
    """Living processes whose output goes to `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(folder) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def fails(done, *parts, started, place, traceback=False):
    """The run failed in time, said `parts` in one message, once, and left nothing in `place`."""
    assert done.returncode != 0
    while ranks_below(place / "out"):  # mpiexec does not wait for those it kills
        assert time.monotonic() - started < LIMIT
        time.sleep(0.05)
    assert time.monotonic() - started < LIMIT
    messages = [line for line in done.stderr.splitlines() if line.startswith("mpilayer: ")]
    assert len(messages) == 1, done.stderr
    for part in parts:
        assert part in messages[0]
    assert done.stderr.count("Traceback") == traceback, done.stderr
    assert not list(place.glob("tmp/mpilayer-*"))
    assert not list(place.glob("out/.*"))
    left = {path.name for path in place.glob("out/*")}
    assert left in (set(), {"run.json", "flight"})
    if left:
        record = json.loads((place / "out" / "run.json").read_text())
        assert (record["complete"], record["final"]) == (False, None)


@pytest.fixture
def place(tmp_path):
    """A folder for out/, tmp/ and data."""
    (tmp_path / "tmp").mkdir()
    return tmp_path


def refused(count, place, options, *parts):
    """The main job fails on `count` ranks with `parts` in its message; all ranks agree, so none needs to abort."""
    started = time.monotonic()
    done = train(count, "--out", place / "out", *options, TMPDIR=str(place / "tmp"))
    fails(done, *parts, started=started, place=place)
    return done


def write(path, x=IMAGES, y=LABELS, names=("x", "y"), classes=None):
    with h5py.File(path, "w") as file:
        file[names[0]], file[names[1]] = x, y
        if classes:
            file.attrs["classes"] = classes
    return path


BAD_OPTIONS = [
    (["--net", "vgg"], ["--net", "'vgg'", "alexnet-mini", "googlenet", "try:"]),
    (["--schedule", "later"], ["--schedule", "'later'", "oneshot", "layerwise", "delayed", "try:"]),
    (["--data", "cifar"], ["cifar", "digits, synthetic, fashion-mnist", "text:FILE, FILE.h5"]),
    (["--schedule", "delayed", "--delay", "-1"], ["--delay", "not negative", "'-1'"]),
    (["--schedule", "delayed", "--delay", "one"], ["--delay", "whole number", "'one'"]),
    (["--delay", "2"], ["--delay 2", "--schedule delayed or local-sgd", "layerwise"]),
    (["--staleness", "2"], ["--staleness 2", "--schedule ps", "layerwise"]),
    (["--schedule", "ps", "--servers", "3"], ["--servers 3", "none of the 3 ranks", "mpiexec -n 4"]),
    *((["--schedule", name, "--batch-statistics", "all"],
       [f"--batch-statistics all does not go with --schedule {name}", "another's samples", "--batch-statistics local"])
      for name in ("ps", "partial", "rma")),
    (["--schedule", "ps", "--clip", "1"], ["--clip", "--schedule ps", "whole gradient"]),
    (["--schedule", "ps", "--wire", "topk"], ["--wire topk", "--schedule ps", "answers are weights", "bfloat16"]),
    (["--schedule", "rma", "--wire", "bfloat16"], ["--wire bfloat16", "--schedule rma", "one-sided", "float32"]),
    (["--schedule", "split", "--wire", "powersgd"], ["--wire powersgd", "--schedule split", "halves"]),
    (["--wire", "topk", "--reduction", "ordered"], ["--wire topk", "--reduction native"]),
    (["--wire", "topk", "--top-share", "2"], ["--top-share 2", "at most 1"]),
    (["--matrix-rank", "2"], ["--matrix-rank", "--wire powersgd"]),
    (["--schedule", "local-sgd", "--delay", "10"], ["--delay 10", "--period of 10"]),
    (["--schedule", "local-sgd", "--delay", "auto"], ["--delay auto", "--period of 10"]),
    (["--schedule", "partial", "--quorum", "4"], ["--quorum 4", "3 ranks"]),
    (["--schedule", "diloco", "--outer-momentum", "1"], ["--outer-momentum", "less than 1"]),
    (["--slow", "3:2"], ["--slow 3", "0..2"]),
    (["--slow", "1:0.5"], ["--slow", "1 or more"]),
    (["--delay-compensation", "1"], ["--delay-compensation", "--schedule delayed or ps"]),
    (["--batch", "2"], ["batch of 2", "3 ranks", "--batch 3"]),
    (["--batch", "0"], ["--batch", "positive whole number"]),
    (["--batch", "5000"], ["at most 1437", "5000", "try:"]),
    (["--batch", "8", "--batch-per-rank", "8"], ["not allowed with"]),
    (["--lr", "nan"], ["--lr", "'nan'"]),
    (["--clip", "0"], ["--clip", "positive number"]),
    (["--momentum", "1"], ["--momentum", "less than 1"]),
    (["--label-smoothing", "1.5"], ["--label-smoothing", "less than 1"]),
    (["--momentum-correction"], ["--momentum-correction", "--schedule delayed or ps"]),
    (["--delay-warmup", "9"], ["--delay-warmup 9", "--schedule delayed", "layerwise"]),
    (["--schedule", "delayed", "--delay", "auto", "--delay-warmup", "9"], ["--delay-warmup", "auto"]),
    (["--width", "8"], ["--width", "--net transformer"]),
    (["--net", "transformer-mini", "--heads", "5"], ["64", "5 heads"]),
    (["--net", "transformer-mini", "--data", "digits"], ["takes tokens", "digits has images", "--data text"]),
    (["--data", "text"], ["takes images", "text has tokens", "--data digits"]),
    (["--data", "digits", "--context", "9"], ["digits", "no context"]),
    (["--data", "text:/nowhere", "--net", "transformer-mini"], ["/nowhere", "cannot be read"]),
    (["--data", "idx:/nowhere"], ["/nowhere", "train-labels-idx1-ubyte", "dataset-fashion-mnist"]),
    (["--shape", "9x9x1"], ["at most", "smaller --shape"]),
    (["--validation", "1"], ["samples on both sides", "--validation"]),
    (["--steps", "9" * 400], ["--steps", "positive whole number"]),
    (["--shape", "32x32"], ["HxWxC", "'32x32'"]),
    (["--data", "synthetic", "--shape", "2x2x1"], ["alexnet-mini", "(2, 2, 1)", "try:"]),
    (["--classes", "10"], ["digits", "classes", "has its own"]),
    (["--colour"], ["--colour", "--help"]),
    (["--data", "/proc/none.h5"], ["/proc/none.h5", "no such file"]),
    (["--data", "/proc/cpuinfo"], ["/proc/cpuinfo"]),
    (["--out", "/proc/none/below"], ["/proc/none/below", "cannot write", "try: another --out"]),
]
BAD_CONTENT = [
    ({"names": ("images", "y")}, ["| x |", "images, y"]),
    ({"x": IMAGES[..., 0]}, ["| x |", "(N,H,W,C)", "(40, 32, 32)"]),
    ({"y": LABELS[:9]}, ["| y |", "(40,)", "(9,)"]),
    ({"y": LABELS - 1}, ["| y |", "-1"]),
    ({"classes": 3}, ["| y |", "0..2", "3"]),
]


def refuses(ranks, options, parts):
    """Every rank of the main job ends with one and the same message, which has these parts."""
    with pytest.raises(AgreedError) as found:
        main_job.run(ranks, options)
    for part in parts:
        assert part in str(found.value), (options, str(found.value))


@on_ranks(3)
def test_bad_options(ranks):
    for options, parts in BAD_OPTIONS:
        refuses(ranks, options, parts)


@on_ranks(3)
def test_bad_content(ranks):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(ranks.gather(folder)[0])
        for number, (content, parts) in enumerate(BAD_CONTENT):
            path = folder / f"{number}.h5"
            if ranks.rank == 0:
                write(path, **content)
            ranks.meet()
            refuses(ranks, ["--data", str(path)], [str(path), *parts, "try:"])
        ranks.meet()


@pytest.mark.parametrize("words", ["--net vgg", "--batch 5000", "--out /proc/none/below"])
def test_a_message_is_printed_once_and_nobody_aborts(place, words):
    parts = {" ".join(options): parts for options, parts in BAD_OPTIONS}[words]
    done = refused(3, place, words.split(), *parts)
    assert done.returncode == 2
    assert "Abort" not in done.stderr


@pytest.mark.parametrize("keep", [0.001, 0.5, 0.99])
def test_truncated_file(place, keep):
    path = write(place / "some.h5")
    os.truncate(path, int(keep * path.stat().st_size))
    refused(2, place, ["--data", path], str(path), "damaged or cut short")


def test_not_hdf5(place):
    path = place / "some.h5"
    path.write_text("x, y\n" * 99)
    refused(2, place, ["--data", path], str(path), "expected an HDF5 file")


def test_output_folder_below_a_file(place):
    (place / "file").touch()
    refused(3, place, ["--out", place / "file" / "out"], "cannot write", "Not a directory")


@on_ranks(2)
def test_a_place_of_the_result_that_is_a_folder_is_noticed_before_training(ranks):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("run.json", "timeline.json"):
            out = Path(ranks.bcast(folder)) / f"out-{name}"
            if ranks.rank == 0:
                (out / name).mkdir(parents=True)
            ranks.meet()
            refuses(ranks, ["--out", str(out)], [name, "it is a folder", "another --out"])


@on_ranks(2)
def test_a_folder_that_another_run_writes_to(ranks):
    with tempfile.TemporaryDirectory() as folder:
        out, lock = Path(ranks.bcast(folder)), None
        if ranks.rank == 0:
            lock = prepare_folder(out)
        ranks.meet()
        refuses(ranks, ["--out", str(out)], ["another run writes to", "another --out"])
        if lock is not None:
            os.close(lock)


WRITTEN = """
import json, shutil, sys
from pathlib import Path
from mpilayer import train

def epoch(self, number, real=train.Trainer.epoch):
    if self.ranks.rank == 0:
        record = json.loads((out / "run.json").read_text())
        print(number, record["complete"], len(record["epochs"]), record["final"], (out / "timeline.json").exists())
        if number == 1 and sys.argv[1] == "gone":
            shutil.rmtree(out)
    return real(self, number)
out = Path(sys.argv[3])
train.Trainer.epoch = epoch
train.main(sys.argv[2:])
"""


def test_every_epoch_is_written_when_it_ends_and_an_old_record_does_not_outlive_the_start(place):
    (place / "program.py").write_text(WRITTEN)
    (place / "out").mkdir()
    (place / "out" / "run.json").write_text('{"complete": true, "epochs": [1, 2, 3]}')
    (place / "out" / "timeline.json").write_text("{}")
    done = mpiexec(2, place / "program.py", "keep", "--out", place / "out", "--epochs", 3, "--quiet")
    assert done.stdout.splitlines() == [f"{number} False {number} None False" for number in range(3)]
    record = json.loads((place / "out" / "run.json").read_text())
    assert (record["complete"], len(record["epochs"])) == (True, 3)
    assert {path.name for path in (place / "out").iterdir()} == {"run.json", "timeline.json", "weights.h5"}


@on_ranks(2)
def test_a_timeline_that_cannot_be_written_does_not_cost_the_result(ranks, ):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        out = Path(ranks.bcast(folder))
        record = run_record.RunRecord(ranks, SimpleNamespace(out=out, given={}), dict)
        patch.setattr(run_record, "write_timeline", full)
        with pytest.raises(UserError, match="No space left on device"):
            record.end([{"epoch": 1}], {"steps": 5}, None, SimpleNamespace(arrays={}), {"net": "none"})
        ranks.keep_records()
        found = json.loads((out / "run.json").read_text())
        assert (found["complete"], found["epochs"], found["final"]) == (True, [{"epoch": 1}], {"steps": 5})
        ranks.meet()


def test_a_folder_that_vanishes_costs_no_epoch_and_is_an_error_at_the_end(place):
    (place / "program.py").write_text(WRITTEN.replace("self.ranks.rank == 0:", "self.ranks.rank == 0 and number < 2:"))
    done = mpiexec(2, place / "program.py", "gone", "--out", place / "out", "--epochs", 4)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("mpilayer: ")]
    assert len(said) == 2, done.stderr
    assert "training goes on" in said[0]
    assert all("cannot write to the output folder" in line for line in said)
    assert "epoch   4" in done.stdout


@pytest.mark.parametrize("count", [2, 4])
def test_memory(place, count):
    """A machine may promise what it does not have: 90 PB are refused by any."""
    refused(count, place, ["--data", "synthetic", "--shape", "90000000x90000000x3"], "not enough memory", "--shape")


@pytest.mark.parametrize(("words", "place_of_it"), [("layerwise --lr 1e38 --steps 1", "layerwise | step 0 | conv"),
                                                    ("diloco --outer-lr 3e38 --steps 15", "diloco | step 14 | conv")])
def test_a_last_update_that_is_not_finite(place, words, place_of_it):
    """The weights are finite, but no output is that is computed with them."""
    refused(2, place, ["--schedule", *words.split(), "--warmup", "0"], place_of_it, "expected finite numbers",
            "so the loss (nan)", "try: a smaller --lr")


@on_ranks(1)
def test_weights_that_are_not_finite_after_the_last_update(ranks):
    net = nets.build("alexnet-mini", classes=10, shape=(8, 8, 1))
    trainer = Trainer.__new__(Trainer)
    trainer.ranks, trainer.net, trainer.name = ranks, net, "layerwise"
    trainer.check_updates(6)
    net.layers[1].w[3] = np.inf
    with pytest.raises(UserError, match=rf"^{net.layers[1].name} \| expected finite weights after the update"):
        trainer.check_updates(7)
    assert ranks.where == "layerwise | step 7"


OUT_OF_MEMORY = """
import sys
from mpilayer import train
from mpilayer.base.errors import UserError
def made(ranks, *arguments, real=train.make_trainer, **more):
    if ranks.rank == 1:
        raise UserError("not enough memory on the GPU for gradients | try: a smaller --batch")
    return real(ranks, *arguments, **more)
train.make_trainer = made
train.main(sys.argv[1:])
"""


def test_one_rank_that_has_no_memory_for_gradients(place):
    """The others are in collectives meanwhile, and are ended."""
    (place / "program.py").write_text(OUT_OF_MEMORY)
    started = time.monotonic()
    done = mpiexec(3, place / "program.py", "--out", place / "out", TMPDIR=str(place / "tmp"))
    fails(done, "rank 1 | ", "not enough memory on the GPU", started=started, place=place)
    assert aborted(done, 2)


@pytest.mark.parametrize("schedule", ["delayed", "partial", "ps"])
def test_a_loss_that_is_not_finite(place, schedule):
    refused(2, place, ["--schedule", schedule, "--lr", "1e30", "--warmup", "0", "--steps", "9"],
            "rank ", f"{schedule} | step ", "conv", "expected finite", "try: a smaller --lr")


def test_a_sample_that_is_not_finite(place):
    x = IMAGES.copy()
    x[3] = np.nan
    path = write(place / "some.h5", x=x)
    refused(2, place, ["--data", path, "--batch", "36"], "rank ", "layerwise | step 0", "samples [3]", "try:")


@pytest.mark.parametrize(("count", "schedule"), [(2, "planned"), (4, "gossip"), (3, "ps"), (2, "partial")])
def test_an_exception_on_one_rank(place, count, schedule):
    (place / "divide.py").write_text(DIVIDE)
    started = time.monotonic()
    done = mpiexec(count, place / "divide.py", "--schedule", schedule, "--out", place / "out",
                   TMPDIR=str(place / "tmp"))
    fails(done, f"rank 1 | {schedule} | step ", "ZeroDivisionError", started=started, place=place, traceback=True)


# Signals


def signalled(place, count, send):
    """Start a long run, let `send` (mpiexec's process, ranks) signal it, and see how it ends."""
    line = ["mpiexec", "-n", str(count), sys.executable, "-m", "mpilayer.train", "--steps", "1000000",
            "--out", str(place / "out")]
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    job = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
                           env=environment(PATH=path, TMPDIR=str(place / "tmp"), PYTHONUNBUFFERED="1"))
    try:
        for text in job.stdout:
            if "epoch" in text:
                break
        ranks = [p for p in ranks_below(place / "out") if p.cmdline()[1:3] == ["-m", "mpilayer.train"]]
        assert len(ranks) == count
        started = time.monotonic()
        send(job, ranks)
        out, err = job.communicate(timeout=2 * LIMIT)
        return subprocess.CompletedProcess(line, job.returncode, out, err), started
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.parametrize(("count", "send", "name"), [
    (2, lambda job, ranks: job.send_signal(signal.SIGINT), "SIGINT"),
    (4, lambda job, ranks: job.send_signal(signal.SIGTERM), "SIGTERM"),
    (4, lambda job, ranks: [rank.send_signal(signal.SIGINT) for rank in ranks], "SIGINT"),
], ids=["SIGINT to mpiexec", "SIGTERM to mpiexec", "SIGINT to all ranks"])
def test_signals(place, count, send, name):
    done, started = signalled(place, count, send)
    fails(done, "rank ", f"stopped by {name}", started=started, place=place)


def test_one_message_from_several_nodes(place):
    """MPICH can pretend that ranks with odd and even numbers are on two machines."""
    started = time.monotonic()
    done = train(4, "--lr", "1e30", "--warmup", "0", "--steps", "9", "--out", place / "out", TMPDIR=str(place / "tmp"),
                 MPIR_CVAR_ODD_EVEN_CLIQUES="1")
    fails(done, "expected finite", started=started, place=place)


# The launcher of another MPI


@pytest.mark.parametrize(("module", "size", "rank", "name"), [
    ("mpilayer.train", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "Open MPI"),
    ("mpilayer.train", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "Slurm")])
def test_launcher_of_another_mpi(place, module, size, rank, name):
    started = time.monotonic()
    jobs = [subprocess.Popen([sys.executable, "-m", module], stderr=subprocess.PIPE, text=True, cwd=place,
                             env=environment(**{size: "3", rank: str(number)})) for number in range(3)]
    said = [job.communicate(timeout=2 * LIMIT)[1] for job in jobs]
    done = subprocess.CompletedProcess(module, min(job.returncode for job in jobs), "", "".join(said))
    fails(done, f"the launcher of {name} started 3 ranks", "try: the mpiexec", started=started, place=place)
    assert said[0]
    assert said[1:] == ["", ""]


def test_no_mpi_library(place):
    started = time.monotonic()
    done = train(2, MPI4PY_LIBMPI="/nowhere/libmpi.so")
    fails(done, "no MPI library can be loaded", "pip install", started=started, place=place)


# What is not a failure


def test_help_is_printed_once():
    done = train(3, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("usage: ") == done.stdout.count("--quiet  ") == 1


def test_quiet_prints_nothing():
    done = train(2, "--quiet", "--steps", 2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_mpiexec():
    done = subprocess.run([sys.executable, "-m", "mpilayer.train", "--steps", "2"], capture_output=True, text=True,
                          timeout=60, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 ranks, 1 on this machine" in done.stdout
