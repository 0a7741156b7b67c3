"""`python -m bench gpu` with a CPU in place of the GPU and without PyTorch: every part, stopped, and gone on with."""

import math
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import cluster, cubins, processes, timing
from bench.gpu import build, check, command, layers, memory, overlap, part, record, steps, table
from bench.gpu import device as gpu_device
from kernels.attention.cases import Case as Attention
from kernels.dense.cases import Case as Dense
from mpilayer.base.errors import UserError
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


@pytest.fixture
def here(monkeypatch, device):
    """A function that measures parts in this process, as where no PyTorch is, and gives their records."""
    watched = {}
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(part, "watch", lambda record, _, longest: watched.update({record.data["part"]: longest}))
    gpu_device.torch.cache_clear()

    def measure(folder, parts, *words):
        told = options("--out", str(folder), *words)
        told.until = time.time() + 600
        folder.mkdir(exist_ok=True)
        assert [part.run(name, "1", told) for name in parts] == [0] * len(parts)
        assert watched == {name: math.inf if name in ("build", "check") else record.LONGEST for name in parts}
        return [record.read(folder, name) for name in parts]

    yield measure
    gpu_device.torch.cache_clear()


def test_build_check_layers_and_memory_are_measured_once(tmp_path, here):
    words = ["--room", "loss", "--precisions", "float32", *SMALL]
    found = built, checked, layer, bounded = here(tmp_path / "out", ["build", "check", "layers", "memory"], *words)
    assert all(data["units"] and not data["missing"] and not data["failures"] for data in found)
    assert all(name.startswith("sm_80 loss") for name in built["units"])
    assert all(row["good"] for row in record.rows(checked))
    (rows,) = layer["units"].values()
    assert [row["pass"] for row in rows] == ["forward", "dgrad", "wgrad"]
    for row in rows:
        assert row["tflops"] == pytest.approx(2 * 49 * 832 * 32 / row["seconds"] / 1e12)
        assert row["peer"] == {}
        assert row["ratio"] is row["product_share"] is None
    copy = bounded["facts"]["copy_gb_per_s"]
    for row in record.rows(bounded):
        assert row["copy_share"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9 / copy)
    lost = bounded["units"].pop("softmax_cross_entropy googlenet float32")
    record.write(tmp_path / "out" / "memory.json", bounded)
    status, printed = run(tmp_path, *words, "--parts", "memory")
    assert status == 0, printed
    assert "2/2  softmax_cross_entropy googlenet float32" in printed  # only what was missing
    assert "1/2" not in printed
    again = record.read(tmp_path / "out", "memory")["units"].pop("softmax_cross_entropy googlenet float32")
    assert again[0]["seconds"] != lost[0]["seconds"]
    assert "no peer: PyTorch is not installed here" in printed
    assert "convolutions and dense, dgrad" in printed.split("layers ")[-1]


def test_a_killed_run_and_a_part_that_fails_leave_what_there_is(tmp_path, here, monkeypatch):
    words = ["--nets", "transformer-mini", "--precisions", "bfloat16", "--batch", "1", "--rounds", "1"]
    monkeypatch.setattr(steps, "SECONDS", 0)
    (data,) = here(tmp_path / "out", ["steps"], *words)
    (row,) = record.rows(data)
    assert (row["net"], row["precision"], row["batch"]) == ("transformer-mini", "bfloat16", 1)
    assert row["samples_per_second"] == pytest.approx(1 / row["seconds"])
    (tmp_path / "out" / "check.json").mkdir()  # where nothing can be written
    job = start(tmp_path, "--parts", "check,overlap", *words)
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
    rows = record.rows(record.read(tmp_path / "out", "overlap"))
    assert [row["schedule"] for row in rows] == list(overlap.SCHEDULES)
    for row in rows:
        alone = row["compute_seconds"], row["communication_seconds"]
        assert row["bound_seconds"] == pytest.approx(sum(alone) if row["schedule"] == "oneshot" else max(alone))


# ---- in this process -------------------------------------------------------------------------------------------------


def test_a_record_goes_on_and_begins_anew(tmp_path):
    units = {"a": 0, "b": 1, "c": 2}
    first = record.Record(tmp_path, "layers", {"batch": 1}, "1", units)
    first.add("a", [{"x": 1}])
    first.add("b", ValueError("it broke"))
    assert first.todo() == {"c": 2}
    assert record.read(tmp_path, "layers")["missing"] == ["c"]
    second = record.Record(tmp_path, "layers", {"batch": 1}, "2", units)
    assert second.todo() == {"b": 1, "c": 2}  # what failed before is tried again
    other = record.Record(tmp_path, "layers", {"batch": 2}, "3", units)
    assert other.anew
    assert other.todo() == units
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


class LeftError(Exception):
    """In place of the end of this process."""


def leave(status):
    raise LeftError(status)


def test_a_unit_that_hangs_has_failed_and_one_at_work_when_time_is_over_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(part.os, "_exit", leave)
    for until, longest, status, failed, missing in ((60, 0, command.AGAIN, ["b"], ["c"]), (-13, 60, 0, [], ["b", "c"]),
                                                    (-1, 0, 0, ["b"], ["c"])):
        found = record.Record(tmp_path, "layers", {"until": until}, "1", {"a": 0, "b": 1, "c": 2})
        found.add("a", [])
        with pytest.raises(LeftError, match=f"^{status}$"):
            part.watch(found, time.time() + until, longest)
        data = record.read(tmp_path, "layers")
        assert (list(data["failures"]), data["missing"]) == (failed, missing)
        assert all("TimeoutError: took more than" in failure["error"] for failure in data["failures"].values())
    path = tmp_path / "layers.json"
    record.write(path, record.read(tmp_path, "layers") | {"units": {}, "failures": {}, "missing": ["b", "c"]})
    assert not table.show(options("--out", str(tmp_path)), {})
    assert "layers   0 done in 0 s, 2 missing: b, c" in capsys.readouterr().out


def test_after_a_unit_that_hangs_another_process_goes_on(monkeypatch, tmp_path):
    program = ("import sys, time; from bench.gpu import memory, part\n"
               "part.facts, part.LONGEST = lambda needs_gpu: {}, 0.5\n"
               "memory.units = lambda options: {'endless': 60, 'quick': 0}\n"
               "memory.measure = lambda todo, *_: ((name, time.sleep(todo[name]) or []) for name in todo)\n"
               "part.main(['memory', str(time.time() + 60), '1', '--out', sys.argv[1]])")
    statuses = []

    def attempt(*_):
        done = subprocess.run([sys.executable, "-c", program, tmp_path], env=environment(), cwd=TOP, timeout=40)
        statuses.append(done.returncode)
        return done.returncode

    monkeypatch.setattr(command, "_attempt", attempt)
    assert command.run_part(tmp_path, "memory", 0, "1", []) is None
    assert statuses == [command.AGAIN, 0]
    data = record.read(tmp_path, "memory")
    assert (list(data["failures"]), list(data["units"]), data["missing"]) == (["endless"], ["quick"], [])


def test_a_call_that_dies_or_hangs_keeps_no_other_from_its_process():
    calls = {"dies": (os._exit, 3), "raises": (int, "x"), "hangs": (time.sleep, 60), "good": (divmod, 7, 2),
             "better": (divmod, 9, 2)}
    found = dict(processes.spread(operator.call, calls, workers=2, seconds=2))
    assert found["good"] == (3, 1)
    assert found["better"] == (4, 1)
    assert [str(found[name]) for name in ("dies", "hangs")] == ["its process ended with exit status 3",
                                                               "did not end in time, and was stopped"]
    assert str(found["raises"]).startswith("ValueError: invalid literal")
    assert isinstance(found["hangs"], TimeoutError)


def test_nobody_waits_for_calls_that_are_not_wanted_any_more():
    begin = time.monotonic()
    for name, found in processes.spread(operator.call, {"good": (os.getpid,), "long": (time.sleep, 60)}, workers=2):
        assert (name, found != os.getpid()) == ("good", True)
        break
    assert time.monotonic() - begin < 30


def test_a_call_has_a_process_of_its_own_where_that_is_asked_for():
    calls = dict.fromkeys(range(3), (os.getpid,))
    assert len({pid for _, pid in processes.spread(operator.call, calls, workers=1)}) == 1
    assert len({pid for _, pid in processes.spread(operator.call, calls, workers=1, fresh=True)}) == 3


def test_for_a_gpu_that_is_there_products_are_built_first_and_nothing_is_looked_at(monkeypatch):
    assert {one.architecture for one in build.units(options()).values()} == {"sm_80"}  # the emulated one
    monkeypatch.setattr(build, "here", lambda: ("sm_90a",))
    units = build.units(options("--room", "l"))  # of products and others
    assert {one.macro("WGMMA") for one in units.values() if one.macro("BM") and one.macro("MATH") == "BF16"} == {1}
    monkeypatch.setattr(build, "spread", lambda function, calls: ((name, []) for name in calls))
    done = dict(build.measure(units, options(), {}))
    names = list(done)
    assert cubins.is_product(units[names[0]])
    assert set(names) == set(units)


def test_without_a_gpu_builds_for_two_are_looked_at(monkeypatch):
    monkeypatch.setattr(build, "here", tuple)
    units = build.units(options("--room", "l"))
    assert {one.architecture for one in units.values()} == set(cubins.ARCHITECTURES)
    assert {one.macro("WGMMA") for one in units.values() if one.architecture != "sm_90a"} == {None}
    monkeypatch.setattr(cubins, "survey", lambda chosen: ((one, [{"error": "does not compile"}]) for one in chosen))
    done = dict(build.measure(units, options(), {}))
    assert set(done) == set(units)
    assert all(isinstance(found, build.FaultyBuildError) for found in done.values())


def test_two_ranks_begin_with_what_matters_most(monkeypatch):
    names = list(overlap.units(options()))
    assert names[:5] == ["resnet50 bfloat16 all schedules", "alexnet bfloat16 all schedules",
                         *(f"resnet50 bfloat16 {schedule}" for schedule in overlap.SCHEDULES)]
    assert all(name.endswith("all schedules") for name in names[5:])

    def late(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(overlap, "launcher", lambda: "mpiexec")
    monkeypatch.setattr(overlap.subprocess, "run", late)
    told = options()
    for left, seconds in ((200, 100), (20, record.LONGEST)):
        told.until = time.time() + left
        (_, error), *others = overlap.measure(overlap.units(told), told, {})
        assert f"took more than {seconds} s" in str(error)
        assert len(others) == len(names) - 1


def test_mpiexec_is_that_of_the_mpi_in_use(monkeypatch, tmp_path):
    def at(*folders):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "mpiexec").write_text("#!/bin/sh\n")
            (tmp_path / folder / "mpiexec").chmod(0o755)
        return Path(cluster.launcher()).parent.relative_to(tmp_path).as_posix()

    monkeypatch.setenv("MPI4PY_LIBMPI", str(tmp_path / "mine/lib/libmpi.so.12"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python/python3"))
    with pytest.raises(UserError, match="no mpiexec found"):
        at()
    assert [at("path"), at("python"), at("mine/bin")] == ["path", "python", "mine/bin"]
    monkeypatch.delenv("MPI4PY_LIBMPI")
    assert at() == "python"


def test_without_a_peer_that_works_ours_is_measured(monkeypatch, tmp_path, capsys):
    def fails():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_device, "torch", lambda: True)
    assert gpu_device.peers(lambda: {"forward": {"NCHW": abs}}, {"forward"}) == {"forward": {"NCHW": abs}}
    assert gpu_device.peers(fails, {"forward"}) == {"forward": {}}
    assert capsys.readouterr().out == "no peer: RuntimeError: out of memory\n"
    monkeypatch.undo()
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    gpu_device.torch.cache_clear()
    assert gpu_device.peer_facts() == {"torch": None}
    assert gpu_device.peers(fails, {"forward"}) == {"forward": {}}
    gpu_device.torch.cache_clear()


def test_what_broke_the_gpu_is_tried_in_a_new_process(monkeypatch, tmp_path):
    statuses = [command.AGAIN, command.AGAIN, 0]
    monkeypatch.setattr(command, "_attempt", lambda *_: statuses.pop(0))
    assert command.run_part(tmp_path, "memory", 0, "1", []) is None
    assert statuses == []
    monkeypatch.setattr(command, "_attempt", lambda *_: command.AGAIN)
    assert "broke the GPU or hung" in command.run_part(tmp_path, "memory", 0, "1", [])


@pytest.mark.parametrize("module", [build, check, layers, memory, overlap, steps])
def test_units_have_names_of_their_own_and_come_in_one_order(module, monkeypatch):
    monkeypatch.setattr(build, "here", tuple)
    names = list(module.units(options()))
    assert names == list(module.units(options()))
    assert len(names) >= 9
    few = module.units(options("--room", "loss", "--nets", "resnet50", "--layer", "5b", "--op", "lrn", "--precisions",
                               "bfloat16"))
    assert 0 < len(few) < len(names)
    assert set(few) <= set(names)


def test_all_layers_of_the_nets_are_measured():
    units = layers.units(options()).values()
    assert {unit.case.net for unit in units} == set(command.NETS)
    assert {type(unit.case) for unit in units} >= {Attention, Dense}
    rows = {unit.case.shapes(unit.size)[0][0] for unit in units
            if isinstance(unit.case, Dense) and unit.case.net == "transformer"}
    assert rows == {16 * 1024}


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


def test_gpu_clocks_read_events(device):
    seconds = timing.Events().reading(lambda: time.sleep(2e-3), 3)
    assert seconds >= 6e-3
    cold = timing.Cold()
    assert cold.memory.nbytes == 4 * device.cuda.Device().attributes["L2CacheSize"]
    times = timing.alternate({"a": lambda: time.sleep(1e-3), "b": lambda: None}, rounds=2, seconds=0, clock=cold)
    assert times["a"] > 1e-3 > times["b"] >= 0


@pytest.mark.parametrize(("streams", "writes"), [("late", timing.Cold.WRITES[0]), ("eager", sum(timing.Cold.WRITES))])
def test_the_cold_clock_writes_until_it_is_ahead(device, monkeypatch, streams, writes):
    cold, written = timing.Cold(), []
    monkeypatch.setattr(cold, "memory", SimpleNamespace(fill=written.append))
    with device.emulator.mode(streams=streams):
        cold.reading(lambda: None, 1)
    assert len(written) == writes


def test_rooms_are_those_with_a_source():
    assert {"attention", "conv2d", "matmul", "update"} <= set(cubins.rooms())
