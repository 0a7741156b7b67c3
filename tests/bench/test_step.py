"""The measurement of a whole training step. PyTorch's side is tested by the measurement itself: see step.compare."""

import json
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import nets
from bench import step
from mpilayer.base.errors import UserError
from tests.bench.test_bench import run
from tests.test_examples import EXAMPLES

MODERN = runpy.run_path(str(EXAMPLES / "modern_nets.py"))


@pytest.fixture
def mini():
    return step.Step(nets.build("alexnet-mini"), 2)


def test_step_writes_figures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(step, "peak", lambda precision: 50.0)
    file = tmp_path / "step.json"
    assert run("step", "--net", "googlenet-mini", "--batch", 2, "--rounds", 1, "--json", file) == 0
    figures = json.loads(file.read_text())
    assert (figures["net"], figures["batch"], figures["peak"]) == ("googlenet-mini", 2, 50)
    (row,) = figures["rows"]
    assert row["images_per_second"] == pytest.approx(2 / row["seconds"])
    assert row["peak_share"] == pytest.approx(row["gflops"] / 50)
    assert (row["who"], row["ratio"]) == ("ours", 1)
    layers = {"conv2d", "dense", "pool", "norm", "activation", "rest"}
    assert {phase: set(rooms) for phase, rooms in figures["breakdown"].items()} == {
        "forward": layers | {"loss"}, "backward": layers, "update": {"update", "rest"}}
    assert all(value > 0 for rooms in figures["breakdown"].values() for value in rooms.values())
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("images/s", "conv2d", "rest", "update"))


def test_step_next_to_a_peer(monkeypatch, capsys):
    monkeypatch.setattr(step, "peak", lambda precision: 50.0)
    monkeypatch.setitem(step.PEERS, "torch", (lambda: None, lambda ours: {"torch twin": ours}))
    monkeypatch.setattr(step, "alternate", lambda functions, **_: dict(zip(functions, (1.0, 1.5), strict=True)))
    assert run("step", "--net", "alexnet-mini", "--batch", 2, "--rounds", 1, "--peer", "torch") == 0
    printed = capsys.readouterr().out
    assert "greatest difference: loss 0.0e+00, gradient 0.0e+00" in printed
    cells = next(line for line in printed.splitlines() if "torch twin" in line).split("│")
    assert [cells[2].strip(), cells[6].strip()] == ["1500.0", "1.50"]


def test_flops_of_a_step_are_the_published_ones():
    alexnet = step.Step(nets.build("alexnet"), 1)
    alexnet.forward()
    assert step.flops(alexnet.net) == 2 * (3 * (665_784_864 + 58_621_952) - 105_415_200)  # conv1 reads the image


def test_a_step_trains(mini):
    before = mini.net.weights.copy()
    mini()
    want = before - step.SGD["lr"] * (mini.net.gradients[0] + step.SGD["weight_decay"] * before)
    np.testing.assert_allclose(mini.net.weights, want, rtol=1e-6)
    assert not np.array_equal(mini.net.weights, before)


def test_the_breakdown_is_of_the_median_step_and_adds_up(monkeypatch):
    clock, kept = {"now": 0.0}, step.kernels.relu
    monkeypatch.setattr(step, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))
    monkeypatch.setattr(step.kernels, "conv2d", lambda seconds: clock.update(now=clock["now"] + seconds))
    step.kernels.conv2d.__module__ = "kernels.conv2d"
    durations = iter([5.0, 1.0, 2.0])

    def forward():
        step.kernels.conv2d(next(durations))
        step.kernels.conv2d(1.0)
        clock["now"] += 0.25

    fake = SimpleNamespace(forward=forward, backward=lambda: None, update=lambda: None)
    reading = step.breakdown(fake, 3)
    assert reading == {"forward": {"conv2d": 3, "rest": 0.25}, "backward": {"rest": 0}, "update": {"rest": 0}}
    assert step.kernels.relu is kept


class Changed:
    """Ours with one number changed."""

    def __init__(self, ours, layer=None, scale=1.0):
        self.ours, self.layer, self.scale = ours, layer, scale

    def gradients(self):
        loss, gradients = self.ours.gradients()
        if self.layer is None:
            return loss * self.scale, gradients
        return loss, gradients | {self.layer: self.scale * gradients[self.layer]}


def test_nets_that_are_the_same_pass(mini):
    assert step.compare(mini, {"twin": mini}) == {"loss": 0, "gradient": 0}
    found = step.compare(mini, {"a": Changed(mini, None, 1 + 1e-6), "b": Changed(mini, "conv2", 0.99)})
    assert found == pytest.approx({"loss": 1e-6, "gradient": 0.01}, rel=1e-3)


@pytest.mark.parametrize(("layer", "scale", "message"), [
    (None, 1.0001, "other's loss differs from ours by 1.0e-04 of it | expected 1e-05 at most: "),
    (None, np.nan, "other's loss differs from ours by nan of it | expected 1e-05 at most: "),
    ("conv1", 1.1, "other's gradient of conv1 differs from ours by 1.0e-01 of it | expected 3e-02 at most: "),
    ("fc8", np.nan, "other's gradient of fc8 differs from ours by nan of it | expected 3e-02 at most: "),
])
def test_nets_that_differ_are_not_timed(layer, scale, message, mini):
    with pytest.raises(UserError) as error:
        step.compare(mini, {"same": mini, "other": Changed(mini, layer, np.float32(scale))})
    assert str(error.value) == message + "they are not the same net, and nothing was timed"


@pytest.mark.parametrize(("name", "sizes"), [("mobilenet", {"width": 8}), ("convnext", {"width": 8, "depth": 1})])
def test_nets_of_depthwise_convolutions_are_those_of_pytorch(name, sizes):
    pytest.importorskip("torch")
    from bench.peer_torch import Step

    ours = step.Step(nets.build(MODERN[name], shape=(64, 64, 3), classes=10, **sizes), 4)
    step.compare(ours, {layout: Step(ours.net, ours.batch, layout, step.SGD) for layout in ("NCHW", "NHWC")})


def test_dropout_is_off_for_the_comparison_only(mini):
    dropouts = [block for block in mini.net.body.blocks if hasattr(block, "rate")]
    with step.without_dropout(mini.net):
        assert [block.rate for block in dropouts] == [0, 0]
    assert [block.rate for block in dropouts] == [0.2, 0.2]


@pytest.mark.parametrize("command", ["step", "kernels"])
def test_bfloat16_says_what_it_needs(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(SystemExit):
        run(command, "--precision", "bfloat16")
    assert 'bfloat16 needs ml_dtypes | try: pip install -e ".[bfloat16]"' in capsys.readouterr().err
