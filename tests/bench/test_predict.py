"""Predicted steps of a real job, and advice for one that is not here."""

import json
import os
import shutil
import subprocess
import sys

import pytest

import nets
from bench import advise, predict
from tests.ranks import TOP, environment, mpiexec


def test_advice_names_the_simplest_schedule_that_is_as_fast_as_any_exact_one(tmp_path, capsys):
    for rate, words in (("1gbit", ["layerwise", "planned", "split"]), ("100000gbit", ["oneshot: "])):
        advise.main(["--net", "resnet-mini", "--batch", "1", "--ranks", "64", "--rate", rate, "--step-seconds", "0.05",
                     "--json", str(tmp_path / "f.json"), "--save-profile", str(tmp_path / "p.json")])
        found = {row["schedule"]: row for row in json.loads((tmp_path / "f.json").read_text())}
        last = capsys.readouterr().out.splitlines()[-2]
        assert any(word in last for word in words), last
        assert found["oneshot"]["seconds"] >= found["planned"]["seconds"] * 0.999
        assert 0 < found["oneshot"]["efficiency"] <= 1
        assert found["delayed:2"]["memory"] > found["delayed:1"]["memory"] > found["oneshot"]["memory"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advise, "RANKS", [2, 64])
        advise.main(["--net", "resnet-mini", "--profile", str(tmp_path / "p.json"), "--plot", str(tmp_path / "f.png")])
    assert (tmp_path / "f.png").stat().st_size > 1000
    assert "resnet-mini, batch 32" in capsys.readouterr().out


def test_a_slow_rank_and_times_that_vary_cost_what_waits_for_all(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(flat(nets.build("alexnet-mini"))))
    seconds = {}
    for name, words in (("alike", []), ("slow", ["--slow", "2"]), ("vary", ["--jitter", "0.1"])):
        advise.main(["--net", "alexnet-mini", "--ranks", "64", "--rate", "100000gbit", "--profile",
                     str(tmp_path / "p.json"), "--json", str(tmp_path / "f.json"), *words])
        seconds[name] = {row["schedule"]: row["seconds"] for row in json.loads((tmp_path / "f.json").read_text())}
    assert seconds["slow"]["oneshot"] == pytest.approx(2 * seconds["alike"]["oneshot"], rel=0.05)
    assert seconds["vary"]["oneshot"] > 1.15 * seconds["alike"]["oneshot"]
    assert seconds["vary"]["local-sgd"] < seconds["vary"]["oneshot"]


def flat(net):
    """A Profile in which every layer takes a millisecond."""
    return [{layer.name: 1e-3 for layer in net.backward_layers}, 0.0, 0.0, {layer.name: 1e-3 for layer in net.layers}]


def test_a_profile_that_is_none_is_an_error(tmp_path):
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(advise.UserError, match="expected what --save-profile has written"):
        advise.main(["--profile", str(tmp_path / "p.json")])


def test_a_profile_of_another_net_and_a_folder_that_is_not_there_are_errors(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps(flat(nets.build("alexnet-mini"))))
    with pytest.raises(advise.UserError, match=r"is of another net \| expected the layers of resnet-mini"):
        advise.main(["--net", "resnet-mini", "--profile", str(tmp_path / "p.json")])
    with pytest.raises(advise.UserError, match=r"cannot write .* \| try: another --save-profile"):
        advise.main(["--net", "alexnet-mini", "--profile", str(tmp_path / "p.json"), "--save-profile",
                     str(tmp_path / "none" / "p.json")])


@pytest.mark.parametrize(("words", "message"), [
    (["--ranks", "1"], "one rank has nobody to talk to"), (["--per-node", "7"], "does not divide the 64 ranks"),
    (["--jitter", "2"], "expected a number from 0 to 1"), (["--rate", "fast"], "expected a rate such as 500mbit")])
def test_advice_that_makes_no_sense_is_refused(words, message):
    with pytest.raises(advise.UserError, match=message):
        advise.main(words)


@pytest.mark.parametrize(("count", "words", "message"), [
    (1, [], "one rank has nobody to talk to"), (2, ["--net", "alexnet-mini,resnet-mini"], "expected one net"),
    (2, ["--schedules", "partial"], "there is no simulation of partial")])
def test_what_cannot_be_predicted_is_said(count, words, message):
    done = mpiexec(count, "-m", "bench", "predict", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_two_ranks_are_predicted_and_measured(tmp_path):
    done = mpiexec(2, "-m", "bench", "predict", "--validate", "--net", "alexnet-mini", "--batch", 2, "--steps", 1,
                   "--rounds", 1, "--json", tmp_path / "f.json", seconds=120)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert [row["schedule"] for row in figures["rows"]] == predict.SCHEDULES.split(",")
    for row in figures["rows"]:
        assert row["predicted_seconds"] >= figures["profile_seconds"] * 0.999
        assert row["error"] == pytest.approx(row["predicted_seconds"] / row["measured_seconds"] - 1)


@pytest.mark.skipif(os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")),
                    reason="making network namespaces needs root, ip and tc")
def test_a_slow_link_is_predicted_to_be_slow(tmp_path):
    done = subprocess.run([sys.executable, "-m", "bench", "predict", "--hosts", "2", "--rate", "100mbit", "--schedules",
                           "oneshot,delayed:2", "--batch", "1", "--json", tmp_path / "f.json"], cwd=TOP,
                          env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [figures] = json.loads((tmp_path / "f.json").read_text())
    _, sizes, seconds = figures["wire"]["idle"]
    assert seconds[-1] / sizes[-1] == pytest.approx(8 / 100e6, rel=0.3)
    least = 8 * nets.build("alexnet-mini").weights.nbytes / 100e6
    assert all(least * 0.7 < row["predicted_seconds"] < 2 * least for row in figures["rows"])
