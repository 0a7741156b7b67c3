"""Training on a GPU is training on a CPU: the same nets, schedules and command line."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest

import tests.emulator
from kernels.gpu import fetch
from mpilayer.base.errors import UserError
from mpilayer.gpu import device
from mpilayer.schedules import SCHEDULES
from mpilayer.storage import checkpoint_files
from mpilayer.train import NET, load, make_trainer
from mpilayer.training.options import read_options, settings
from mpilayer.training.resuming import Resuming
from mpilayer.training.trainer import Trainer
from tests.ranks import TOP, on_ranks, train
from tests.storage.test_checkpoints import Folder

SMALL = {"alexnet-mini": [], "resnet-mini": ["--batch-statistics", "all"],
         "transformer-mini": ["--context", "12", "--width", "16", "--depth", "1", "--heads", "2", "--clip", "1",
                              "--optimizer", "adamw"]}
LONG = 300  # seconds: kernels may have to be compiled, and run on a CPU
ROUNDING = 2e-5  # of the largest weight; a few steps


class Silent:
    def say(self, *text):
        pass

    step = epoch = say


def first(part):
    """The first samples of a part."""
    few = copy.copy(part)
    few.__class__ = type("First", (type(part),), {"__len__": lambda self: 8})
    return few


class Run:
    """Weights, losses and accuracy of a few steps."""

    def __init__(self, ranks, *words):
        words = ["--seed", "3", "--batch", "5", "--steps", "3", "--warmup", "0", *map(str, words)]
        options = read_options(words, NET, ranks.size)
        data, net = load(options, ranks)
        data = dataclasses.replace(data, test=first(data.test))
        progress = "thread" if options.progress == "thread" else "poll"
        unmeasured = settings(options)._replace(bucket=20_000, chunk=None, progress=progress)
        resuming = Resuming(ranks, options, (NET,), net, data, print)
        self.trainer = make_trainer(ranks, options, unmeasured, data, net, Silent(), resuming)
        (self.epoch,) = self.trainer.run()
        resuming.close()
        self.trainer.close()
        self.weights, self.state = fetch(net.weights), fetch(net.state)

    def is_as(self, other, bound=ROUNDING):
        """Whether both came to the same."""
        close = np.abs(self.weights - other.weights).max() < bound * np.abs(other.weights).max()
        return close and all(self.epoch[name] == pytest.approx(other.epoch[name], rel=10 * bound, abs=1e-2) for name in
                             ("train_loss", "test_loss"))


def pairs(ranks, cases):
    """(case, what it comes to here, what on the GPU), for lists of words."""
    emulated = tests.emulator.install()
    for words in cases:
        here = Run(ranks, *words)
        with emulated.emulator.mode(streams="late"):
            yield words, here, Run(ranks, *words, "--device", "gpu")


def learns(ranks, net, *schedules):
    """What it learns on a CPU, under each of these schedules."""
    for words, here, there in pairs(ranks, [["--net", net, "--schedule", name, *SMALL[net]] for name in schedules]):
        assert there.is_as(here), words
        assert len(set(ranks.gather(there.weights.tobytes()))) == 1, words


@on_ranks(2, seconds=LONG)
def test_a_checkpoint_of_a_gpu_goes_on_to_the_same_bits(ranks):
    """With sums that have come back to the GPU and are not applied."""
    emulated = tests.emulator.install()
    with Folder(ranks) as folder, emulated.emulator.mode(streams="late"):
        words = ["--device", "gpu", "--schedule", "delayed", "--wire", "bfloat16", "--checkpoint", folder,
                 "--checkpoint-every", "2", "--resume"]
        whole = Run(ranks, *words)
        ranks.meet()
        if ranks.rank == 0:
            shutil.rmtree(checkpoint_files.place(folder, 2))  # the one of the end
        ranks.meet()
        again = Run(ranks, *words)
        assert np.array_equal(again.weights, whole.weights)
        assert again.epoch["train_loss"] == whole.epoch["train_loss"]


@on_ranks(1, 2, seconds=LONG)
def test_an_alexnet_learns_what_it_learns_on_a_cpu(ranks):
    learns(ranks, "alexnet-mini", "layerwise", "delayed")


@on_ranks(2, seconds=LONG)
def test_a_resnet_learns_what_it_learns_on_a_cpu(ranks):
    learns(ranks, "resnet-mini", "layerwise")


@on_ranks(2, seconds=LONG)
def test_a_transformer_learns_what_it_learns_on_a_cpu(ranks):
    learns(ranks, "transformer-mini", "oneshot", "layerwise", "delayed")


SCHEDULED = [["oneshot"], ["planned", "--steps", 6], ["split"], ["delayed", "--delay", 2, "--momentum-correction"],
             ["delayed", "--delay", "auto"], ["delayed", "--delay-warmup", 1, "--delay-compensation", 0.1],
             ["partial", "--quorum", 2], ["local-sgd", "--period", 2, "--delay", 1], ["diloco", "--period", 2],
             ["elastic", "--period", 2]]
SENT = [["--apply", "completion"], ["--wire", "topk"], ["--wire", "bfloat16", "--error-feedback"],
        ["--reduction", "ordered"], ["--progress", "thread"]]


@on_ranks(2, seconds=LONG)
def test_other_schedules(ranks):
    for words, here, there in pairs(ranks, [["--schedule", *words] for words in SCHEDULED]):
        assert there.is_as(here), words


@on_ranks(2, seconds=LONG)
def test_other_ways_to_send(ranks):
    for words, here, there in pairs(ranks, SENT):
        assert there.is_as(here, 2e-3 if "--wire" in words else ROUNDING), words


@on_ranks(2, seconds=LONG)
def test_other_precisions_are_as_far_off_as_they_say(ranks):
    tests.emulator.install()
    for net, precision, bound in (("alexnet-mini", "tf32", 1e-2), ("resnet-mini", "bfloat16", 5e-2),
                                  ("transformer-mini", "bfloat16", 5e-2)):
        words = ["--net", net, *SMALL[net]]
        exact, rounded = Run(ranks, *words), Run(ranks, *words, "--device", "gpu", "--precision", precision)
        assert rounded.is_as(exact, bound), net
        assert not rounded.is_as(exact, 1e-6), net


def forbidden(*_, **__):
    raise AssertionError("somebody waits for the GPU")


@on_ranks(1, 2, seconds=LONG)
def test_nobody_waits_for_the_gpu_in_the_midst_of_a_step(ranks):
    """But by looking, again and again, whether a message has left."""
    emulated, step = tests.emulator.install(), Trainer.step
    waits = [(emulated.cuda.Stream, "synchronize"), (emulated.cuda.Event, "synchronize"), (emulated.ndarray, "get"),
             (emulated.cuda.Device, "synchronize")]

    def watched(*parts):
        with pytest.MonkeyPatch.context() as patch:
            for owner, name in waits:
                patch.setattr(owner, name, forbidden)
            return step(*parts)

    for words in (["resnet-mini"], ["alexnet-mini", "--schedule", "delayed", "--wire", "bfloat16"]):
        with emulated.emulator.mode(streams="late"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "step", watched)
            Run(ranks, "--device", "gpu", "--net", *words)


def test_the_command_line(tmp_path):
    words = ["--net", "alexnet-mini", "--data", "synthetic", "--shape", "8x8x1", "--batch", "8", "--steps", "4",
             "--schedule", "delayed", "--bucket", "20k"]
    runs = {}
    for place in ("cpu", "gpu"):
        done = train(2, *words, "--device", place, "--out", tmp_path / place, seconds=LONG,
                     **tests.emulator.environment(streams="late"))
        assert (done.returncode, done.stderr) == (0, "")
        runs[place] = json.loads((tmp_path / place / "run.json").read_text())
    assert "on CPU, 1 on this machine, in float32; gradients are summed in pinned memory" in done.stdout
    assert "(waiting)" in done.stdout
    here, there = (runs[place]["epochs"][0] for place in ("cpu", "gpu"))
    assert there["train_loss"] == pytest.approx(here["train_loss"], rel=1e-5)
    assert runs["gpu"]["final"]["gradients"] == "gradients are summed in pinned memory"
    assert runs["gpu"]["environment"]["gpu"] == "CPU"
    events = json.loads((tmp_path / "gpu" / "timeline.json").read_text())["traceEvents"]
    rows = {(event["pid"], event["args"]["name"]): event["tid"] for event in events if event["name"] == "thread_name"}
    assert rows.items() >= {(rank, name): row for rank in (0, 1) for row, name in
                            enumerate(("this core", "GPU", "copies out", "copies back"))}.items()
    spans = [event for event in events if event["ph"] == "X"]
    for name, cat, row in (("forward conv2", "compute", 1), ("update fc8", "update", 1), ("read batch", "input", 0)):
        assert {event["tid"] for event in spans if event["name"] == name and event["cat"] == cat} == {row}
    copies = [{event["name"] for event in spans if event["tid"] == row} for row in (2, 3)]
    assert copies[0] == copies[1]
    assert any("fc6" in name for name in copies[0])


@pytest.mark.parametrize(("words", "message"), [
    ("--precision tf32", "goes with --device gpu"),
    ("--device gpu --progress kernel", "try: --progress auto"),
    ("--device gpu --wire powersgd", "try: --wire topk or bfloat16"),
    ("--device gpu --slow 1:2", "this core's time"),
    ("--device gpu --schedule ps", "try: one of oneshot, layerwise, planned, split, delayed, partial"),
])
def test_what_does_not_go_together(words, message):
    with pytest.raises(UserError, match=message):
        read_options(words.split(), NET, 2)


@pytest.mark.parametrize(("cupy", "message"), [
    ("raise ImportError('no CuPy here')", r"(no CuPy here) | try: pip install 'mpilayer[gpu]', or --device cpu"),
    ("from types import SimpleNamespace as S\ncuda = S(runtime=S(getDeviceCount=lambda: 1 / 0))",
     "there is no GPU that CuPy can use (ZeroDivisionError: division by zero) | try: nvidia-smi, or --device cpu"),
])
def test_without_a_gpu_all_ranks_stop_with_one_message(cupy, message, tmp_path):
    (tmp_path / "cupy.py").write_text(cupy)
    done = train(2, "--device", "gpu", "--steps", "1", PYTHONPATH=f"{tmp_path}:{TOP}")
    assert done.returncode == 2
    assert done.stderr.count(message) == 1
    assert done.stderr.count("\n") == 1


def test_too_little_memory_is_said_without_a_traceback():
    class OutOfMemoryError(Exception):
        pass

    with pytest.raises(UserError, match="not enough memory for a batch"), device.room("a batch"):
        raise OutOfMemoryError


def test_schedules_say_whether_they_go_with_a_gpu():
    assert {name for name, kind in SCHEDULES.items() if kind.host_only} == {"gossip", "ps", "rma"}
