"""Communication against computation: the figures against published ones and hand-made ones, and whole runs."""

import argparse
import json
import math
import sys
from types import SimpleNamespace

import pytest

import kernels
import nets
from bench import options, ratio
from bench.step import Step
from mpilayer.base.errors import UserError
from tests.ranks import mpiexec

KEYS = {"layer", "kind", *ratio.ADDED, "ratio", "rate", "balance_batch", "balance_rate"}


def run(count, *argv):
    return mpiexec(count, "-m", "bench", "ratio", *argv)


def check(found, ranks, batch):
    """Every figure follows from the others as METRICS.md says."""
    layers, (*kinds, whole) = found["layers"], found["sums"]
    assert [row["kind"] for row in (*kinds, whole)] == ["conv", "dense", "net"]
    for row in (*layers, *kinds, whole):
        assert set(row) == KEYS
        assert row["bytes"] == 4 * row["parameters"]
        assert min(value for value in row.values() if not isinstance(value, str)) > 0
        assert row["ratio"] == pytest.approx(row["communication_seconds"] / row["compute_seconds"])
        assert row["balance_batch"] / batch == pytest.approx(row["ratio"])
        assert row["rate"] * row["communication_seconds"] == pytest.approx(8 * 2 * (ranks - 1) / ranks * row["bytes"])
        assert row["balance_rate"] / row["rate"] == pytest.approx(row["ratio"])
    for key in ratio.ADDED:
        assert whole[key] == pytest.approx(sum(row[key] for row in layers))
        assert whole[key] == pytest.approx(sum(row[key] for row in kinds))


def test_alexnet_has_its_published_size_and_a_model_takes_the_time_of_its_rate(tmp_path):
    file = tmp_path / "ratio.json"
    done = run(1, "--batch", 2, "--rounds", 1, "--rate", "1gbit", "--ranks", 4, "--json", file)
    assert (done.returncode, done.stderr) == (0, "")
    (found,) = json.loads(file.read_text())
    check(found, 4, 2)
    assert (found["net"], found["ranks"], found["communication"]) == ("alexnet", 4, "modelled")
    assert "alexnet, batch 2 a rank, 4 ranks, communication modelled: 1 Gbit/s; one thread" in done.stdout
    whole, layers = found["sums"][-1], {row["layer"]: row for row in found["layers"]}
    assert whole["parameters"] == 60_965_224
    assert whole["communication_seconds"] == pytest.approx(60_965_224 * 4 * 8 * 1.5 / 1e9)
    assert layers["conv1"]["flops"] == 2 * 2 * (2 * 55 * 55 * 96 * 11 * 11 * 3)  # images, passes
    assert layers["conv2"]["flops"] == 2 * 3 * (2 * 27 * 27 * 256 * 5 * 5 * 48)
    assert layers["fc8"]["flops"] == 2 * 3 * (2 * 4096 * 1000)
    assert layers["fc8"]["bytes"] == 4 * (4096 * 1000 + 1000)


def test_two_ranks_measure_and_draw_several_nets(tmp_path):
    file, picture = tmp_path / "ratio.json", tmp_path / "ratio.png"
    done = run(2, "--net", "googlenet-mini", "--net", "alexnet-mini", "--net", "alexnet-mini", "--batch", 4,
               "--rounds", 2, "--json", file, "--plot", picture)
    assert (done.returncode, done.stderr) == (0, "")
    googlenet, alexnet = json.loads(file.read_text())
    for found in (googlenet, alexnet):
        check(found, 2, 4)
        assert [row["layer"] for row in found["layers"]] == [layer.name for layer in nets.build(found["net"]).layers]
        assert done.stdout.count(f"{found['net']}, batch 4 a rank, 2 ranks, communication measured: ") == 1
        assert done.stdout.count("whole net") == 2
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


COST = {"conv2d": 100, "dense": 100, "conv2d_wgrad": 10, "dense_wgrad": 10, "conv2d_dgrad": 1, "dense_dgrad": 1,
        "lrn": 1000, "lrn_backward": 2000, "maxpool2d": 10_000, "maxpool2d_backward": 20_000,
        "dropout": 100_000, "dropout_backward": 200_000, "softmax_cross_entropy": 1_000_000}


def test_a_layer_has_its_three_passes_and_the_blocks_after_it(monkeypatch):
    clock = {"now": 0}
    monkeypatch.setattr(ratio, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))

    def costly(function, cost):
        def call(*arguments, **named):
            clock["now"] += cost
            return function(*arguments, **named)
        return call

    timed = ratio.Timed(Step(nets.build("alexnet-mini"), 2))
    for name, cost in COST.items():
        monkeypatch.setattr(kernels, name, costly(getattr(kernels, name), cost))
    normed, pooled, dropped = 3000, 30_000, 300_000
    want = {"conv1": 110 + normed + pooled, "conv2": 111 + normed + pooled, "conv3": 111, "conv4": 111,
            "conv5": 111 + pooled, "fc6": 111 + dropped, "fc7": 111 + dropped, "fc8": 111 + 1_000_000}
    assert timed() == want
    assert timed() == want  # each call begins anew


@pytest.mark.parametrize(("text", "bits"), [
    ("500mbit", 5e8), ("1gbit", 1e9), ("2.5Gbit", 2.5e9), ("100kbit", 1e5), ("none", math.inf)])
def test_rates_are_bits_a_second(text, bits):
    assert options.rate(text) == bits


@pytest.mark.parametrize("text", ["", "1", "gbit", "0mbit", "-1gbit", "1.gbit", "1 gbit", "1gb", "inf",
                                  "9" * 400 + "kbit"])
def test_other_rates_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a rate such as 500mbit or 1gbit, or none, got"):
        options.rate(text)


@pytest.mark.parametrize(("bits", "text"), [
    (2.5e9, "2.5 Gbit/s"), (1e9, "1 Gbit/s"), (999.96e6, "1000 Mbit/s"), (123_456, "123.5 kbit/s"),
    (10, "0.01 kbit/s")])
def test_rates_in_words(bits, text):
    assert options.show_rate(bits) == text


@pytest.mark.parametrize(("size", "argv", "message"), [
    (1, [], "one rank sends nothing | try: mpiexec -n 2 python -m bench ratio, or --rate 1gbit for a model"),
    (1, ["--ranks", "2"], "one rank sends nothing"),
    (1, ["--rate", "none"], "--rate none: communication would take no time"),
    (1, ["--rate", "1gbit", "--ranks", "1"], "--ranks 1: one rank sends nothing | expected 2 or more"),
    (2, ["--rate", "1gbit"], "--rate and --ranks are for a model on one rank; 2 ranks measure"),
    (2, ["--ranks", "2"], "--rate and --ranks are for a model on one rank; 2 ranks measure"),
    (2, ["--json", "/no/such/folder/a.json"], "--json /no/such/folder/a.json: there is no folder"),
    (2, ["--plot", "/no/such/folder/a.png"], "--plot /no/such/folder/a.png: there is no folder"),
    (2, ["--plot", "a.jpg"], "expected a name that ends in .png, .svg, .pdf, got 'a.jpg'"),
    (2, ["--rate", "fast"], "expected a rate such as 500mbit"),
    (2, ["--net", "vgg"], "invalid choice: 'vgg'"),
])
def test_options_that_do_not_fit(size, argv, message):
    with pytest.raises(UserError) as error:
        ratio.complete(ratio.parser().parse_args(argv), 0, size)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_nets_once_and_rank_0_alone_writes():
    chosen = ratio.parser().parse_args(["--net", "alexnet", "--net", "all", "--json", "/no/such/folder/a.json"])
    ratio.complete(chosen, 1, 2)
    assert chosen.net == list(nets.NETS)
    assert chosen.json is None


def test_a_picture_without_matplotlib_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="drawing needs Matplotlib"):
        ratio.complete(ratio.parser().parse_args(["--plot", "a.png"]), 0, 2)


def test_the_ranks_say_once_what_is_wrong_or_how_to_use_it():
    wrong, asked = run(2, "--batch", 0), run(2, "--help")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == ("mpilayer: argument --batch: expected a positive whole number, got '0'"
                            " | try: python -m bench ratio --help\n")
    assert asked.returncode == 0
    assert asked.stdout.count("usage: python -m bench ratio") == 1
