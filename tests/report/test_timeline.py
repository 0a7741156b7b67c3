import itertools
import json

import pytest

from bench import __main__ as bench
from mpilayer.report import plots, timeline


def run(*argv):
    return bench.main([str(word) for word in argv])


WORK = [("input", "read batch"), ("compute", "forward input"), ("exposed", "exposed: wait fc"),
        ("update", "update fc"), ("compute", "forward fc"), ("compute", "backward fc"), ("mpi", "post fc")]


def trace(ranks=2, steps=3):
    """A timeline of a net of one layer, in the format of mpilayer.base.tracing; step numbers begin at 7."""
    events = [{"ph": "M", "pid": 0, "name": "process_name", "args": {"name": "rank 0"}}]
    for rank, t in itertools.product(range(ranks), range(steps)):
        start = 10_000 * t + 500 * rank
        where = {"pid": rank, "tid": 0}
        for i, (kind, name) in enumerate(WORK):
            events.append({"ph": "X", "ts": start + 1000 * i, "dur": 900, "name": name, "cat": kind, **where})
        request = {"id": f"{rank}.{t}", "name": f"fc ({7 + t})", "cat": "request", **where}
        events += [{"ph": "b", "ts": start + 6900, **request}, {"ph": "e", "ts": start + 12_900, **request}]
    return {"traceEvents": events}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "timeline.json").write_text(json.dumps(trace()))
    (tmp_path / "run.json").write_text(json.dumps({"config": {"schedule": "delayed", "delay": 2}}))
    return tmp_path


def test_a_step_is_cut_out_of_a_timeline(folder):
    step = timeline.step(folder, 8, 2)
    assert step.title == "delayed 2, step 8"
    assert step.end == pytest.approx(0.5 + 6.9)  # rank 1 begins and ends half a millisecond after rank 0
    work, requests = step.ranks[0]
    marks = ["input", "forward", "exposed", "update", "forward", "backward", "mpi"]
    assert [span.mark for span in work] == marks
    assert [span.name for span in requests] == ["fc (7)", "fc (8)"]
    assert [span.start for span in requests] == pytest.approx([0, 6.9])
    assert [span.end for span in requests] == pytest.approx([2.9, 7.4])


def test_the_last_step_is_the_default_and_ranks_can_be_few(folder):
    step = timeline.step(folder / "timeline.json", None, 1)
    assert step.title == "delayed 2, step 9"
    assert list(step.ranks) == [0]


def test_without_run_json_the_folder_is_the_title(folder):
    (folder / "run.json").unlink()
    assert timeline.step(folder, None, 1).title == f"{folder.name}, step 9"


@pytest.mark.parametrize("suffix", plots.FORMATS)
def test_timeline_draws(folder, suffix, capsys):
    picture = folder / f"steps{suffix}"
    assert run("timeline", folder, folder / "timeline.json", "--plot", picture) == 0
    assert picture.stat().st_size > 1000
    assert str(picture) in capsys.readouterr().out


def test_every_mark_is_in_the_legend_in_a_colour_of_its_own():
    assert len({colour for _, colour in timeline.MARKS.values()}) == len(timeline.MARKS)


@pytest.mark.parametrize("text", [
    "", "no json", "[]", "{}", "3",
    '{"traceEvents": []}', '{"traceEvents": [3]}', '{"traceEvents": [{"ph": "X"}]}',
    '{"traceEvents": [{"ph": "e", "pid": 0, "id": 1, "ts": 2, "name": "never posted"}]}',
    '{"traceEvents": [{"ph": "X", "pid": 0, "ts": 0, "dur": 1, "name": "read batch", "cat": "foreign"}]}',
])
def test_timeline_rejects_what_is_none(text, tmp_path, capsys):
    file = tmp_path / "timeline.json"
    file.write_text(text)
    assert run("timeline", file, "--plot", tmp_path / "no.png") == 2
    message = capsys.readouterr().err
    assert message.startswith(f"bench: {file} ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(("argv", "message"), [
    (["nowhere", "--plot", "no.png"], "cannot read nowhere"),
    ([".", "--plot", "no.png", "--step", "3"], "no step 3 | expected one of 7 to 9"),
    ([".", "--plot", "no.png", "--ranks", "0"], "--ranks 0"),
    ([".", "--plot", "no/such/folder/no.png"], "cannot write no/such/folder/no.png"),
])
def test_timeline_says_what_does_not_fit(argv, message, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run("timeline", *argv) == 2
    assert message in capsys.readouterr().err
