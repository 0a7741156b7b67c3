"""`bench convergence` on short runs of the main job, and what it makes of their records."""

import json
import math

import pytest

from bench import convergence
from bench.convergence import RECIPES, grouped, row, table
from mpilayer.base.errors import UserError
from mpilayer.train import NET
from mpilayer.training.options import read_options
from tests.bench.test_bench import run

SHORT = convergence.Recipe("--data text --batch 8 --steps 5 --context 16 --depth 1 --width 8 --heads 2", 9.0, text=True)


@pytest.mark.parametrize(("seeds", "where"), [("0,3", ()), ("3", ("--hosts", 2, "--rate", "100mbit"))],
                         ids=["here", "emulated hosts"])
def test_runs_are_written_and_drawn(monkeypatch, tmp_path, capfd, seeds, where):
    monkeypatch.setitem(RECIPES, "transformer-mini", SHORT)
    file, picture = tmp_path / "found.json", tmp_path / "found.svg"
    assert run("convergence", "--net", "transformer-mini", "--schedules", "oneshot,delayed:2+momentum-correction",
               "--seeds", seeds, *where, "--json", file, "--plot", picture, "--", "--lr", "0.01") == 0
    found, seeds = json.loads(file.read_text()), [*map(int, seeds.split(","))]
    assert found["rate"] == (1e8 if where else None)
    assert [(one["schedule"], one["seed"]) for one in found["rows"]] == [
        (schedule, seed) for seed in seeds for schedule in ("oneshot", "delayed:2+momentum-correction")]
    for one in found["rows"]:
        (at,) = one["curve"]
        assert one["steps"] == 5
        assert one["final_score"] == at["score"] == pytest.approx(at["test_loss"] / math.log(2))
        assert one["seconds_to_target"] == one["seconds"] == at["seconds"] > 0
    assert len({one["final_score"] for one in found["rows"]}) == 2 * len(seeds)
    printed = capfd.readouterr().out
    assert f"transformer-mini, {len(seeds)} seeds; target 9.000 bits" in printed
    assert "bits per byte of the test part" in picture.read_text().replace("<!--", "").replace("-->", "")


def record(accuracies, seconds):
    epochs = [{"epoch": n + 1, "seconds": seconds, "train_loss": 1.0, "test_loss": 1.0, "test_accuracy": accuracy}
              for n, accuracy in enumerate(accuracies)]
    return {"epochs": epochs, "final": {"steps": 30, "staleness": {"0": 1, "3": 1}}, "bytes": 6e7}


def test_times_to_the_target_and_speed_ups(capsys):
    runs = [("oneshot", 0, [0.5, 0.895, 0.9], 10.0), ("oneshot", 1, [0.5, 0.6, 0.92], 12.0),
            ("delayed:1", 0, [0.2, 0.3, 0.88], 5.0), ("delayed:1", 1, [0.2, 0.89, 0.3], 6.0)]
    rows = [row("alexnet-mini", schedule, seed, record(accuracies, seconds))
            for schedule, seed, accuracies, seconds in runs]
    assert [one["seconds_to_target"] for one in rows] == [20, 36, None, 12]
    from rich.console import Console

    Console(width=120).print(table("alexnet-mini", grouped(rows)["alexnet-mini"]))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()
             if "│" in line]
    assert lines == [["oneshot", "91.00% ± 1.00%", "33.0 ± 3.0", "28.0 ± 8.0", "1.00", "1.5", "2.00"],
                     ["delayed:1", "59.00% ± 29.00%", "16.5 ± 1.5", "not all reach it", "2.00", "1.5", "2.00"]]


@pytest.mark.parametrize("net", RECIPES)
def test_recipes_are_options_of_the_main_job(net):
    for schedule in ("oneshot", "delayed:auto", "delayed:2"):
        options = read_options(["--net", net, *RECIPES[net].words.split(), "--schedule", schedule], NET, 2)
        assert options.schedule == schedule.split(":")[0]


def test_a_run_that_fails_ends_it(monkeypatch, capfd):
    monkeypatch.setitem(RECIPES, "transformer-mini", SHORT)
    with pytest.raises(UserError, match=r"this run failed: -m mpilayer.train --net transformer-mini .*--batch 1 "):
        convergence.main(["--net", "transformer-mini", "--schedules", "oneshot", "--seeds", "0", "--", "--batch", "1"])
    assert "smaller than the 2 ranks" in capfd.readouterr().err


def test_unknown_nets_are_refused(capsys):
    with pytest.raises(SystemExit):
        convergence.parser().parse_args(["--net", "vgg"])
    assert "expected some of alexnet-mini," in capsys.readouterr().err
