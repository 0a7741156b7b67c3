"""`python -m bench gpu` with a CPU in place of the GPU and without PyTorch: every part, stopped, and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bench import cubins, timing
from bench.gpu import build, check, command, layers, memory, overlap, record, steps, table
from tests import emulator
from tests.ranks import TOP, environment

NO_TORCH = "import sys; sys.modules['torch'] = None"
SMALL = ["--batch", "1", "--rounds", "1", "--nets", "googlenet", "--layer", "5a/5x5_reduce", "--op", "softmax"]


def start(folder, *words):
    """The command, in a process of its own, where no PyTorch can be imported."""
    (folder / "sitecustomize.py").write_text(NO_TORCH)
    told = emulator.environment()
    return subprocess.Popen([sys.executable, "-m", "bench", "gpu", "--out", str(folder / "out"), *words], cwd=TOP,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=environment(**told | {"PYTHONPATH": f"{told['PYTHONPATH']}{os.pathsep}{folder}"}))


def run(folder, *words, seconds=100):
    """(exit status, what it printed)."""
    job = start(folder, *words)
    printed, _ = job.communicate(timeout=seconds)
    return job.returncode, printed


def options(*words):
    return command.parser().parse_args(words)


def test_build_check_layers_and_memory_are_measured_once(tmp_path):
    words = ["--parts", "build,check,layers,memory", "--room", "loss", "--precisions", "float32", *SMALL]
    status, printed = run(tmp_path, *words)
    assert status == 0, printed
    found = {part: record.read(tmp_path / "out", part) for part in command.PARTS}
    assert {part for part, data in found.items() if data["units"]} == {"build", "check", "layers", "memory"}
    assert all(data["missing"] == [] for data in found.values())
    assert {row["kernel"] for row in record.rows(found["build"])} == {"softmax", "softmax_cross_entropy"}
    assert all(row["good"] for row in record.rows(found["check"]))
    (rows,) = found["layers"]["units"].values()
    assert [row["pass"] for row in rows] == ["forward", "dgrad", "wgrad"]
    for row in rows:
        assert row["tflops"] == pytest.approx(2 * 49 * 832 * 32 / row["seconds"] / 1e12)
        assert row["peer"] == {}
        assert row["ratio"] is row["product_share"] is None
    copy = found["memory"]["facts"]["copy_gb_per_s"]
    for row in record.rows(found["memory"]):
        assert row["copy_share"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9 / copy)
    assert "no peer: PyTorch is not installed here" in printed
    assert "convolutions and dense, dgrad" in printed.split("layers ")[-1]
    file = tmp_path / "out" / "memory.json"
    data = json.loads(file.read_text())
    lost = data["units"].pop("softmax_cross_entropy googlenet float32")
    file.write_text(json.dumps(data))
    status, printed = run(tmp_path, *words, "--parts", "memory")
    assert status == 0
    assert "2/2  softmax_cross_entropy googlenet float32" in printed  # only what was missing
    assert "1/2" not in printed
    again = json.loads(file.read_text())["units"].pop("softmax_cross_entropy googlenet float32")
    assert again[0]["seconds"] != lost[0]["seconds"]


def test_a_killed_run_and_a_part_that_fails_leave_what_there_is(tmp_path):
    (tmp_path / "out" / "check.json").mkdir(parents=True)  # where nothing can be written
    job = start(tmp_path, "--parts", "check,steps,overlap", "--room", "loss", "--nets", "transformer-mini",
                "--precisions", "bfloat16", "--batch", "1", "--rounds", "1")
    lines = []
    while "bfloat16 all schedules" not in (line := job.stdout.readline()):
        assert line, "".join(lines)
        lines.append(line)
    job.send_signal(signal.SIGTERM)
    printed, _ = job.communicate(timeout=30)
    assert job.returncode == 1
    for text in ("FAILED: stopped by SIGTERM", "step of transformer-mini", "transformer-mini layerwise", "3 missing"):
        assert text in printed
    assert "IsADirectoryError" in "".join(lines)
    (row,) = record.rows(record.read(tmp_path / "out", "steps"))
    assert (row["net"], row["precision"], row["batch"]) == ("transformer-mini", "bfloat16", 1)
    assert row["samples_per_second"] == pytest.approx(1 / row["seconds"])
    rows = record.rows(record.read(tmp_path / "out", "overlap"))
    assert [row["schedule"] for row in rows] == list(overlap.SCHEDULES)
    for row in rows:
        alone = row["compute_seconds"], row["communication_seconds"]
        assert row["bound_seconds"] == pytest.approx(sum(alone) if row["schedule"] == "oneshot" else max(alone))


# ---- in this process -------------------------------------------------------------------------------------------------


def test_a_record_goes_on_and_begins_anew(tmp_path):
    first = record.Record(tmp_path, "layers", {"batch": 1}, "1")
    first.add("a", [{"x": 1}])
    first.add("b", ValueError("it broke"))
    assert first.todo({"a": 0, "b": 1, "c": 2}) == {"c": 2}
    second = record.Record(tmp_path, "layers", {"batch": 1}, "2")
    assert second.todo({"a": 0, "b": 1, "c": 2}) == {"b": 1, "c": 2}  # what failed before is tried again
    other = record.Record(tmp_path, "layers", {"batch": 2}, "3")
    assert other.anew
    assert other.todo({"a": 0}) == {"a": 0}
    assert record.rows(record.read(tmp_path, "layers")) == [{"x": 1}]
    (tmp_path / "memory.json").write_text("{ torn")
    assert record.read(tmp_path, "memory") == record.empty()


def test_parts_share_the_time():
    ends = command.ends(["build", "check"], 1000, 150)
    assert ends == {"build": 1060, "check": 1150}
    assert sum(seconds for _, seconds in command.PARTS.values()) == command.BUDGET


def test_a_part_that_hangs_is_stopped(monkeypatch, tmp_path):
    class Hanging(subprocess.Popen):
        def __init__(self, _, **more):
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **more)

    monkeypatch.setattr(command.subprocess, "Popen", Hanging)
    monkeypatch.setattr(command, "GRACE", 0)
    begin = time.time()
    assert "was stopped" in command.run_part(tmp_path, "memory", begin, "1", [])
    assert time.time() - begin < 10


def test_what_broke_the_gpu_is_tried_in_a_new_process(monkeypatch, tmp_path):
    statuses = [command.AGAIN, command.AGAIN, 0]
    monkeypatch.setattr(command, "_attempt", lambda *_: statuses.pop(0))
    assert command.run_part(tmp_path, "memory", 0, "1", []) is None
    assert statuses == []
    monkeypatch.setattr(command, "_attempt", lambda *_: command.AGAIN)
    assert "broke the GPU" in command.run_part(tmp_path, "memory", 0, "1", [])


@pytest.mark.parametrize("module", [build, check, layers, memory, overlap, steps])
def test_units_have_names_of_their_own_and_come_in_one_order(module, monkeypatch):
    monkeypatch.setattr(build, "has_gpu", lambda: True)
    names = list(module.units(options()))
    assert names == list(module.units(options()))
    assert len(names) >= 9
    few = module.units(options("--room", "loss", "--nets", "alexnet", "--layer", "fc6", "--op", "lrn", "--precisions",
                               "bfloat16"))
    assert 0 < len(few) < len(names)
    assert set(few) <= set(names)


def test_all_layers_of_the_nets_are_measured():
    units = layers.units(options()).values()
    assert {unit.net for unit in units} == set(command.NETS)
    assert {unit.kind for unit in units} == {"conv", "dense", "attention"}
    assert {unit.size for unit in units if unit.kind == "dense" and unit.net == "transformer"} == {16 * 1024}


def test_cases_are_made_larger():
    for op, of in memory.OPS.items():
        case = of.cases[0]
        larger = memory.larger(case, 3)
        assert larger.bytes == pytest.approx((1 if "update" in op else 3) * case.bytes, rel=0.01)


def test_the_table_shows_means_and_what_is_missing(tmp_path, capsys):
    path = tmp_path / "layers.json"
    rows = [{"net": "alexnet", "layer": "conv1", "kind": "conv", "pass": "forward", "precision": "tf32",
             "ratio": ratio, "product_share": share, "tflops": 1.0} for ratio, share in ((0.5, 0.2), (2.0, 0.8))]
    record.write(path, record.empty() | {"units": {"a": rows}, "missing": ["b"], "facts": {
        "torch": "2", "copy_gb_per_s": 3000.0, "product_tflops": {"tf32": 400.0}}})
    record.write(tmp_path / "check.json", record.empty() | {"failures": {"x": {"run": "1", "error": "off", "rows": [
        {"precision": "tf32", "good": False, "error": 3e-3, "bound": 2e-3}]}}})
    assert table.show(options("--out", str(tmp_path)), {"memory": "did not end"})
    printed = capsys.readouterr().out
    for text in ("1.00  40%  [2]", "1 missing: b", "FAILED check: x: off", "0 of 1, worst 150%", "400", "3000",
                 "FAILED: did not end"):
        assert text in printed
    assert "no peer" not in printed
    assert not table.show(options("--out", str(tmp_path / "empty")), {})


def test_gpu_clocks_read_events():
    device = emulator.install()
    seconds = timing.Events().reading(lambda: time.sleep(2e-3), 3)
    assert seconds >= 6e-3
    cold = timing.Cold()
    assert cold.memory.nbytes == 4 * device.cuda.Device().attributes["L2CacheSize"]
    times = timing.alternate({"a": lambda: time.sleep(1e-3), "b": lambda: None}, rounds=2, seconds=0, clock=cold)
    assert times["a"] > 1e-3 > times["b"] >= 0


def test_rooms_are_those_with_a_source():
    assert {"attention", "conv2d", "matmul", "update"} <= set(cubins.rooms())
