"""`bench atlas`: what it runs, what it keeps, and the table."""

import json
import math
import statistics
import time

import pytest

from bench import convergence
from bench.atlas import runs, table
from bench.atlas.spec import Spec
from mpilayer.base.errors import UserError
from tests.bench.test_bench import run
from tests.ranks import TOP

SHORT = convergence.Recipe("--data text --batch 8 --steps 5 --context 16 --depth 1 --width 8 --heads 2", 9.0, text=True)
SPEC = '''question = "Does a delay matter?"
nets = ["transformer-mini"]
seeds = [0, 1]
rows = ["net", "rate"]
columns = "delay"
options = "--batch 4"

[axes.rate]
"0.1" = "--lr 0.1"
"far too high" = "--lr 1e30"

[axes.delay]
"1" = "--schedule delayed --delay 1"
'''


@pytest.fixture
def spec(monkeypatch, tmp_path):
    """The file of a small one."""
    monkeypatch.setitem(convergence.RECIPES, "transformer-mini", SHORT)
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


def test_runs_are_made_once_and_shown_with_an_interval(spec, tmp_path, capfd):
    out, picture = tmp_path / "out", tmp_path / "found.svg"
    words = ["atlas", "--spec", spec, "--out", out, "--plot", picture]
    assert run(*words) == 0
    printed = capfd.readouterr().out
    assert "4 runs, 0 of them there already" in printed
    files = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    found = [json.loads(path.read_text()) for path in files]
    scores = [one["score"] for one in found if one["labels"] | {"seed": 0} == {
        "net": "transformer-mini", "rate": "0.1", "delay": "1", "seed": 0}]
    assert sorted(one["labels"]["seed"] for one in found) == [0, 0, 1, 1]
    assert sum("failed" in one for one in found) == 2
    assert all(one["steps"] == 5 and one["curve"][-1]["score"] == one["score"] for one in found if "failed" not in one)
    half = 12.706 * statistics.stdev(scores) / math.sqrt(2)
    line = f"{statistics.mean(scores):.3f} bits ± {half:.3f}"
    told = (out / "table.md").read_text()
    assert "| transformer-mini | 0.1 | " in told
    assert line in told
    assert line in printed
    assert "| transformer-mini | far too high | failed |" in told
    assert json.loads((out / "about.json").read_text())["cores"] > 0
    assert "0.1" in picture.read_text()
    assert run(*words) == 0
    assert "4 runs, 4 of them there already" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()} == files


def test_an_interrupt_lets_nothing_else_begin(spec, tmp_path, monkeypatch):
    begun = []

    def interrupted(run, ranks):
        begun.append(run)
        time.sleep(0.3 * (len(begun) > 1))
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "made", interrupted)
    spec.write_text(SPEC.replace("[axes.rate]", "timed = true\n\n[axes.rate]"))
    with pytest.raises(KeyboardInterrupt):
        runs.all_of(Spec.read(spec), tmp_path / "out", print)
    assert len(begun) < 3
    assert not [*(tmp_path / "out").iterdir()]


def test_other_options_are_another_run(spec, tmp_path):
    one = next(Spec.read(spec).runs())
    paths = {runs.path_of(tmp_path, one, 2), runs.path_of(tmp_path, one, 3),
             runs.path_of(tmp_path, one._replace(words=("--lr", "1")), 2)}
    assert len(paths) == 3


@pytest.mark.parametrize(("old", "new", "message"), [
    ('"transformer-mini"]', '"vgg"]', "nets .'vgg'., seeds .0, 1. . expected some of alexnet-mini"),
    ('columns = "delay"', 'columns = "size"', "columns 'size' . expected each of net, rate, delay once"),
    ('question = "Does a delay matter?"', "", "question . expected question, nets"),
    ("[axes.rate]", "[axes.seed]", "axes.seed . expected a table of options by label"),
    ('seeds = [0, 1]', 'seeds = 3', "seeds . expected a list, got 3"),
    ('[axes.rate]', '[axes.rate', "expected a TOML file")])
def test_what_a_file_must_say(spec, old, new, message):
    spec.write_text(SPEC.replace(old, new))
    with pytest.raises(UserError, match=message):
        Spec.read(spec)


def test_intervals_are_students():
    assert table.interval([2.0]) == (2.0, None)
    mean, half = table.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.303 / math.sqrt(3))
    assert table.interval(list(range(40)))[1] == pytest.approx(1.96 * statistics.stdev(range(40)) / math.sqrt(40))


@pytest.mark.parametrize("path", sorted((TOP / "bench/atlas/specs").glob("*.toml")), ids=lambda path: path.stem)
def test_the_specs_that_there_are(path):
    from mpilayer.train import NET
    from mpilayer.training.options import read_options

    for each in Spec.read(path).runs():
        read_options(runs.command(each, 2)[6:], NET, 2)
