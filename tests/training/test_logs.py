import json
import statistics
from argparse import Namespace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpilayer.base.errors import UserError
from mpilayer.report.runs import LOG
from mpilayer.training import logs
from mpilayer.training.logs import JSON_LINES, TENSORBOARD, Log
from mpilayer.training.meter import FIELDS, Reading
from tests.ranks import train

BOTH = (JSON_LINES, TENSORBOARD)
TABLE = np.array([[2, 8, 4.0, 1.0, 1.0, 3.0], [2, 8, 4.0, 3.0, 0.0, 1.0]])
EPOCH = {"epoch": 1, "test_loss": 0.5, "test_accuracy": 0.75, "train_loss": 2.0}
FOUND = {"loss": 2.0, "images_per_second": 4.0, "exposed_share": 0.125, "step_seconds_p50": 2.0,
         "step_seconds_p90": 2.8, "step_seconds_p99": 2.98, "slowest_rank": 1, "slowest_times": 3.0, "staleness": 1.5}


def test_the_table_is_as_its_fields_say():
    assert FIELDS == ("steps", "samples", "seconds", "compute", "exposed", "loss")


def write(folder, names, done=0, steps=(2, 4), restarts=0):
    with Log(names, folder, done, restarts) as log:
        for step in steps:
            log(Reading(step, TABLE, np.array([1.0, 3.0]), 1.5))
        log.epoch(steps[-1], EPOCH)


def lines(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def scalars(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_both_hold_all_that_is_known(tmp_path):
    write(tmp_path, BOTH)
    first, *readings, epoch = lines(tmp_path)
    assert (first["step"], first["restarts"]) == (0, 0)
    assert [each.pop("step") for each in readings] == [2, 4]
    for each in readings:
        assert each.pop("time") > 1e9
        assert each == pytest.approx(FOUND)
    assert (epoch["step"], epoch["test_accuracy"]) == (4, 0.75)
    drawn = scalars(tmp_path)
    for name, value in FOUND.items():
        assert drawn[name] == [(2, pytest.approx(value)), (4, pytest.approx(value))]
    assert drawn["test_loss"] == [(4, 0.5)]


def test_a_run_that_goes_on_replaces_what_came_after_its_checkpoint(tmp_path):
    write(tmp_path, BOTH, steps=(2, 4, 6))
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 6, "ti')  # it was killed there
    write(tmp_path, BOTH, done=3, steps=(5, 7), restarts=1)
    assert [each["step"] for each in lines(tmp_path) if "loss" in each] == [2, 5, 7]
    assert [each["restarts"] for each in lines(tmp_path) if "restarts" in each] == [0, 1]
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [2, 5, 7]
    write(tmp_path, BOTH)
    assert [each["step"] for each in lines(tmp_path) if "loss" in each] == [2, 4]


def test_lines_that_are_damaged_are_left_out_when_a_run_goes_on(tmp_path):
    (tmp_path / LOG).write_bytes(b'{"step": 1}\nno json\n\xff\n[3]\n{"loss": 2}\n{"step": 2}\n')
    write(tmp_path, [JSON_LINES], done=3, steps=(5,), restarts=1)
    assert [each["step"] for each in lines(tmp_path)] == [1, 2, 3, 5, 5]


def test_what_cannot_be_written_is_said_once(tmp_path, capsys):
    (tmp_path / LOG).mkdir()
    write(tmp_path, [JSON_LINES])
    assert capsys.readouterr().err == "mpilayer: --log cannot write (Is a directory); training goes on\n"


def test_what_is_lacking_is_said_before_training(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--log goes with --out"):
        logs.check(Namespace(log=[JSON_LINES], out=None))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    logs.check(Namespace(log=[JSON_LINES], out=tmp_path))
    with pytest.raises(UserError, match=r"pip install 'mpilayer\[tensorboard\]'"):
        logs.check(Namespace(log=BOTH, out=tmp_path))


def test_a_slow_rank_has_a_name_everywhere(tmp_path):
    done = train(3, "--steps", 160, "--batch", 96, "--slow", "1:3", "--log", JSON_LINES, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rank 1 (") == 1
    assert "slowest of the ranks: 1 (" in done.stdout
    final = json.loads((tmp_path / "run.json").read_text())["final"]
    assert final["slowest"]["rank"] == 1
    assert final["slowest"]["times"] > 1.5
    assert {row["steps"] for row in final["ranks"]} == {160}
    assert final["layers"]["backward conv2"]["slowest"] > final["layers"]["backward conv2"]["mean"] > 0
    assert statistics.mode(each["slowest_rank"] for each in lines(tmp_path) if "slowest_rank" in each) == 1
