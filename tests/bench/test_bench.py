import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import __main__ as bench
from bench import hook, kernels, layers, memory, timing

ROOT = Path(bench.__file__).parents[1]
KEYS = ["net", "layer", "kind", "pass", "shape", "seconds", "peer", "peer_seconds", "ratio", "gflops", "peak_share"]


def run(*argv):
    return bench.main([str(word) for word in argv])


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_commands_are_listed(argv, capsys):
    assert run(*argv) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in bench.COMMANDS:
        assert any(line.split()[:1] == [name] for line in lines)


def test_every_command_explains_itself(capsys):
    for name in bench.COMMANDS:
        with pytest.raises(SystemExit) as stop:
            run(name, "--help")
        assert stop.value.code == 0
        assert f"python -m bench {name}" in capsys.readouterr().out


def test_unknown_command_lists_the_choices():
    done = subprocess.run([sys.executable, "-m", "bench", "kernel"], cwd=ROOT, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"bench: no command 'kernel' | expected one of {', '.join(bench.COMMANDS)}\n"


def test_alternate_runs_in_turn():
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "abc"}
    times = timing.alternate(functions, rounds=4, seconds=0)
    assert list(times) == list("abc")
    turns = [name for name, _ in itertools.groupby(order)]
    assert turns == list("abc") * (len(turns) // 3)  # warm-up, counting calls, and the rounds
    assert len(turns) == 3 * (1 + 1 + 4)


def test_alternate_takes_the_median_of_a_call(monkeypatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock["now"]))

    def takes(durations):
        def function():
            clock["now"] += next(durations)
        return function

    rounds = (seconds for seconds in (5, 1, 2) for _ in range(8))
    slow = itertools.chain([9, 1], rounds, itertools.repeat(1))  # warm-up, counting calls, three rounds
    quick = itertools.repeat(timing.LEAST / 8)  # so each is called eight times in a round
    times = timing.alternate({"slow": takes(slow), "quick": takes(quick)}, rounds=3, seconds=0)
    assert times == pytest.approx({"slow": 2, "quick": timing.LEAST / 8})


def test_alternate_goes_on_for_the_seconds(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    calls = []
    timing.alternate({"only": lambda: calls.append(0)}, rounds=1, seconds=20)
    assert len(calls) > 5


def test_hook_reports_cost_and_intervals(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(hook, "LAYERS", ("googlenet 5a/1x1",))
    run("hook", "--every", 100, "--rounds", 1, "--json", tmp_path / "hook.json")
    (found,) = json.loads((tmp_path / "hook.json").read_text())
    assert found["layer"] == "googlenet 5a/1x1"
    assert found["cost"] == pytest.approx(found["hooked_seconds"] / found["seconds"] - 1)
    assert found["calls"] > 1
    assert 100 <= found["median_us"] <= found["longest_us"]
    assert "every 100 us, one thread" in capsys.readouterr().out


def test_peak_and_copy_are_positive(monkeypatch):
    monkeypatch.setattr(timing, "alternate", lambda functions, **_: dict.fromkeys(functions, 0.5))
    monkeypatch.setattr(timing, "_last_level_cache", lambda: 0)
    assert timing.peak() > 0
    assert timing.copy_bandwidth() == pytest.approx(4 * 2**28 / 1e9)


@pytest.fixture
def quick(monkeypatch):
    """Short readings."""
    monkeypatch.setattr(kernels, "SECONDS", 0)
    monkeypatch.setattr(kernels, "copy_bandwidth", lambda: 1.0)
    monkeypatch.setattr(kernels, "peak", lambda precision: 50.0)


def test_kernels_writes_rows(quick, tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert run("kernels", "--layer", "5a/5x5_reduce", "--rounds", 1, "--batch", 1, "--json", file) == 0
    rows = json.loads(file.read_text())
    assert [row["pass"] for row in rows] == ["forward", "dgrad", "wgrad"]
    for row in rows:
        assert list(row) == KEYS
        assert (row["net"], row["layer"]) == ("googlenet", "5a/5x5_reduce")
        assert row["shape"] == "1x7x7x832 * 1x1x832x32"
        assert row["gflops"] == pytest.approx(2 * 49 * 832 * 32 / row["seconds"] / 1e9)
        assert row["peak_share"] == pytest.approx(row["gflops"] / 50)
        assert row["peer_seconds"] is row["ratio"] is None
    printed = capsys.readouterr().out
    assert printed.count("5a/5x5_reduce") == 3
    assert "geometric mean" not in printed


def test_kernels_against_a_peer_takes_its_better_layout(quick, monkeypatch, capsys):
    peer = {name: {"one": None, "other": None} for name in kernels.PASSES}
    monkeypatch.setitem(kernels.PEERS, "torch", (lambda: None, lambda *_: peer))
    monkeypatch.setattr(kernels, "alternate", lambda functions, **_: {"ours": 1.0, "one": 3.0, "other": 2.0})
    assert run("kernels", "--layer", "classifier", "--peer", "torch") == 0
    printed = capsys.readouterr().out
    assert printed.count("2000.000   2.00") == 3 + 1  # the rows, and the worst of them
    assert "geometric mean" in printed


def test_kernels_against_one_thread_of_their_own(quick, tmp_path, capsys):
    file = tmp_path / "rows.json"
    words = "--layer", "5a/5x5_reduce", "--peer", "one-thread", "--threads", 2, "--rounds", 1, "--batch", 1
    assert run("kernels", *words, "--json", file) == 0
    rows = json.loads(file.read_text())
    assert [list(row["peer"]) for row in rows] == [["alone"]] * 3
    assert all(row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"]) for row in rows)
    assert "one-thread / ours" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [("kernels", "--layer", "fc8"), ("step",)])
def test_without_torch_it_says_what_to_install(argv, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    assert run(*argv, "--peer", "torch") == 2
    assert capsys.readouterr().err == 'bench: --peer torch needs PyTorch | try: pip install -e ".[bench]"\n'


@pytest.mark.parametrize(("argv", "message"), [
    (["--layer", "conv9"], "no layer 'conv9'"),
    (["--layer", "conv1", "--pass", "dgrad"], "no layer 'conv1'"),
    (["--random", "2", "--net", "alexnet"], "--random draws layers of no net | try: without --net and --layer"),
    (["--random", "2", "--pass", "backward"], "no layer '' with such a pass"),
])
def test_kernels_says_what_does_not_fit(argv, message, capsys):
    assert run("kernels", *argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["kernels", "step"])
def test_a_file_that_cannot_be_written_is_refused_at_once(command, capsys):
    assert run(command, "--json", "/no/such/folder/rows.json") == 2
    assert "no folder /no/such/folder" in capsys.readouterr().err


def test_kernels_measures_the_nets_alone():
    options = kernels.parser().parse_args([])
    chosen = kernels.select(options)
    assert {case.net for case, *_ in chosen} == {"alexnet", "googlenet", "resnet50", "mobilenet", "convnext", "deeplab",
                                                 "transformer"}
    for case, batch, passes in chosen:
        assert batch == 16
        assert ("dgrad" in passes) == (case.name != "attention" and case.channels > 3)


def test_random_layers_are_the_same_each_time_and_of_every_kind(quick, capsys):
    options = kernels.parser().parse_args(["--random", "200", "--seed", "3"])
    chosen = kernels.select(options)
    assert chosen == kernels.select(options)
    found = {layers.kind(case) for case, *_ in chosen}
    assert {"dense", "1x1", "3x3", "3x3 / 2", "3x3 : 2", "3x3 depthwise"} < found
    assert all(2e7 <= case.flops(batch) <= 2e10 for case, batch, _ in chosen)
    assert run("kernels", "--random", 1, "--rounds", 1) == 0
    assert "any batch" in capsys.readouterr().out


def test_attention_and_its_gradient_are_measured(quick, tmp_path):
    file = tmp_path / "rows.json"
    words = "--net", "transformer", "--layer", "attention", "--batch", 1, "--rounds", 1
    assert run("kernels", *words, "--json", file) == 0
    forward, backward = json.loads(file.read_text())
    assert forward["gflops"] * forward["seconds"] == pytest.approx(2 * 2 * 8 * 32 * 256 * 257 / 2 / 1e9)
    assert backward["gflops"] * backward["seconds"] == pytest.approx(5 * 2 * 8 * 32 * 256 * 257 / 2 / 1e9)
    assert forward["shape"] == "1x256x768, 8 x 32"


def test_transforms_of_bfloat16_are_exact_or_save_products_but_not_both(tmp_path):
    file = tmp_path / "rows.json"
    assert run("transforms", "--json", file) == 0
    rows = {(row["outputs"], row["data_parts"], row["filter_parts"]): row for row in json.loads(file.read_text())}
    assert rows[2, 1, 1]["saved"] == pytest.approx(9 * 4 / 16)
    assert rows[4, 2, 2]["saved"] == pytest.approx(9 * 16 / 36 / 3)
    for row in rows.values():
        within = row["error"] < 3e-3
        assert within == (row["data_parts"] == row["filter_parts"] == 2 or row["saved"] < 1.2), row


def test_geometric_means():
    rows = [{"kind": kind, "pass": which, "ratio": ratio} for kind, which, ratio in
            [("5x5", "forward", 1.0), ("5x5", "dgrad", 4.0), ("dense", "forward", 0.25)]]
    means = {what: (count, pytest.approx(mean)) for what, (count, mean) in kernels.means(rows).items()}
    assert means == {"all": (3, 1), "conv": (2, 2), "dense": (1, 0.25), "forward": (2, 0.5), "dgrad": (1, 4),
                     "5x5": (2, 2)}


@pytest.fixture
def quick_memory(monkeypatch):
    """Short readings of small cases, one for each operation."""
    monkeypatch.setattr(memory, "SECONDS", 0)
    monkeypatch.setattr(memory, "copy_bandwidth", lambda: 20.0)
    for name, op in memory.OPS.items():
        small = min(op.cases, key=lambda case: case.bytes)
        monkeypatch.setitem(memory.OPS, name, op._replace(cases=[small._replace(name="alexnet " + small.name)]))


def test_memory_writes_rows(quick_memory, tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert run("memory", "--rounds", 1, "--json", file) == 0
    rows, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert [(row["op"], row["pass"]) for row in rows] == [(n, w) for n, op in memory.OPS.items() for w in op.passes]
    for row in rows:
        assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        assert row["copy_share"] == pytest.approx(row["gb_per_s"] / 20)
        assert row["peer_seconds"] is row["ratio"] is None
    assert len(printed.rstrip().splitlines()) == 2 + len(rows)


def test_memory_against_a_peer_takes_its_better_layout(quick_memory, monkeypatch, capsys):
    monkeypatch.setitem(memory.PEERS, "torch", lambda: None)
    peer = {"forward": {"one": None, "other": None}, "backward": {"one": None, "other": None}}
    monkeypatch.setitem(memory.OPS, "lrn", memory.OPS["lrn"]._replace(torch=lambda case: peer))
    monkeypatch.setattr(memory, "alternate", lambda functions, **_: {"ours": 1.0, "one": 3.0, "other": 2.0})
    assert run("memory", "--op", "lrn", "--peer", "torch") == 0
    assert capsys.readouterr().out.count("2000.000   2.00") == 2


def test_memory_measures_the_nets_alone():
    chosen = memory.select("")
    assert {name for name, _ in chosen} == set(memory.OPS)
    assert {case.name.split()[0] for _, case in chosen} == {
        "alexnet", "googlenet", "resnet-mini", "resnet50", "transformer", "transformer-mini"}
    assert {name for name, _ in memory.select("pool")} == {"maxpool2d", "avgpool2d"}


@pytest.mark.parametrize(("argv", "message"), [
    (["--op", "conv"], "no op 'conv' | expected part of one of relu, dropout"),
    (["--op", "lrn", "--json", "/no/such/folder/rows.json"], "no folder /no/such/folder"),
])
def test_memory_says_what_does_not_fit(argv, message, capsys):
    assert run("memory", *argv) == 2
    assert message in capsys.readouterr().err
