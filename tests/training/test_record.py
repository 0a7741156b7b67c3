import json
from collections import Counter, defaultdict

import pytest

from mpilayer.base import tracing
from mpilayer.base.files import replacing
from mpilayer.base.tracing import Trace
from tests.ranks import on_ranks, train
from tests.storage.test_checkpoints import Folder

STEPS, KEPT = 12, 10


@pytest.fixture(scope="module", params=["oneshot", "delayed"])
def run(request, tmp_path_factory):
    """(schedule, run.json, the events of timeline.json) of a short run on two ranks."""
    out = tmp_path_factory.mktemp("run") / "deep" / "out"
    done = train(2, "--schedule", request.param, "--steps", STEPS, "--out", out, seconds=300)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "timeline.json", "weights.h5"]
    record, timeline = (json.loads((out / name).read_text()) for name in ("run.json", "timeline.json"))
    return request.param, record, timeline["traceEvents"]


@on_ranks(4)
def test_of_many_ranks_some_are_in_the_timeline(ranks):
    trace = Trace()
    trace.steps[-1].append(("compute", "forward conv1", float(ranks.rank), 1.0 + ranks.rank))
    with Folder(ranks) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "MOST_SHOWN", 2)
        tracing.write_timeline(folder / "timeline.json", ranks, trace)
        ranks.meet()
        events = json.loads((folder / "timeline.json").read_text())["traceEvents"]
        assert {event["pid"] for event in events} == {0, 3}
        ranks.meet()


def test_record(run):
    schedule, record, _ = run
    assert list(record) == ["format", "config", "given", "measured", "environment", "complete", "epochs", "final"]
    assert record["config"].items() >= {"schedule": schedule, "net": "alexnet-mini", "batch": 64, "steps": STEPS,
                                        "delay": 1 if schedule == "delayed" else None, "seed": 0}.items()
    assert record["environment"].items() >= {"ranks": 2, "nodes": 1, "ranks_per_node": 2}.items()
    (epoch,) = record["epochs"]
    assert list(epoch) == ["epoch", "step", "train_loss", "test_loss", "test_accuracy", "seconds", "images_per_second",
                           "exposed_seconds"]
    assert epoch["epoch"] == 1
    assert epoch["images_per_second"] == pytest.approx(STEPS * 64 / epoch["seconds"])
    assert 0 <= epoch["exposed_seconds"] < epoch["seconds"]
    assert set(record["final"]) == {"test_loss", "test_accuracy", "steps", "weights_sha256", "replicas", "staleness",
                                    "deaths", "planned_seconds", "measured_seconds", "resumed", "slowest", "ranks",
                                    "layers"}
    assert record["final"]["steps"] == STEPS
    assert record["final"]["planned_seconds"] is None, "only planned predicts"
    assert record["final"]["measured_seconds"] > 0
    assert record["final"]["test_accuracy"] == epoch["test_accuracy"]
    assert len(bytes.fromhex(record["final"]["weights_sha256"])) == 32


def test_timeline_has_a_process_for_each_rank(run):
    events = run[2]
    assert {e["args"]["name"]: e["pid"] for e in events if e["name"] == "process_name"} == {"rank 0": 0, "rank 1": 1}
    assert {e["ph"] for e in events} == {"M", "X", "b", "e"}
    for event in events:
        assert event["pid"] in (0, 1)
        assert event["ph"] == "M" or event["ts"] >= 0
        assert event["ph"] != "X" or event["dur"] >= 0


@pytest.mark.parametrize("rank", [0, 1])
def test_timeline_shows_each_layers_computing(run, rank):
    names = Counter(e["name"] for e in run[2] if e["ph"] == "X" and e["cat"] == "compute" and e["pid"] == rank)
    layers = {name.split()[1] for name in names} - {"input"}
    assert "conv1" in layers
    assert len(layers) > 4
    for layer in layers:
        assert names[f"forward {layer}"] == names[f"backward {layer}"] == KEPT


@pytest.mark.parametrize("rank", [0, 1])
def test_timeline_shows_each_request(run, rank):
    schedule, _, events = run
    spans = defaultdict(dict)
    for event in events:
        if event["ph"] in "be" and event["pid"] == rank:
            spans[event["id"], event["name"]][event["ph"]] = event["ts"]
    assert all(set(span) == {"b", "e"} and span["b"] <= span["e"] for span in spans.values())
    steps = Counter(name.rsplit("(", 1)[1] for _, name in spans)
    layers = 1 if schedule == "oneshot" else len({name.split()[0] for _, name in spans})
    assert set(steps.values()) >= {layers}
    assert len(steps) >= KEPT


def test_timeline_marks_exposed_waits(run):
    waits = [e for e in run[2] if e["ph"] == "X" and e["cat"] == "exposed"]
    assert run[0] != "oneshot" or waits  # one sum is never there at once on two ranks
    assert all(e["name"].startswith("exposed: wait ") for e in waits)


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "run.json"
    for text in ("old", "new"):
        with replacing(path) as file:
            file.write(text)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "run.json"
    path.write_text("old")

    def fail():
        with replacing(path) as file:
            file.write("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_take_its_place(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError, match="directory"), replacing(tmp_path / "run.json") as file:
        file.write("text")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


