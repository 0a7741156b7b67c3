"""Emulated hosts: what runs on them, what crosses their links, and what is left when they are gone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nets
from bench import cluster, schedules
from bench import options as shared
from mpilayer.base.errors import UserError
from tests.ranks import TOP, environment

ROWS = {"schedule", "iteration_seconds", "images_per_second", "alone_images_per_second", "compute_seconds",
        "communication_seconds", "exposed_seconds", "mpi_seconds", "bound_seconds", "bound_share", "speedup",
        "efficiency", "bytes_on_wire", "system_seconds", "switches", "interrupt_seconds"}
needs_hosts = pytest.mark.skipif(os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")),
                                 reason="making network namespaces needs root, ip and tc")


def bench(*words, seconds=120):
    return subprocess.run([sys.executable, "-m", "bench", *map(str, words)], cwd=TOP, env=environment(),
                          capture_output=True, text=True, timeout=seconds)


def namespaces():
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout


@needs_hosts
def test_ranks_on_two_hosts_talk_over_the_links_and_leave_nothing_behind():
    program = ("import numpy as np\nfrom mpi4py import MPI\nc = MPI.COMM_WORLD\n"
               "x = np.ones(10**6, np.float32); c.Allreduce(MPI.IN_PLACE, x)\n"
               "text = f'rank {c.rank} of {c.size} on {c.Split_type(MPI.COMM_TYPE_SHARED).size} {x[0]}'\n"
               "everyone = c.gather(text)\nif c.rank == 0: print('\\n'.join(everyone))")
    done = bench("cluster", "--hosts", 2, "--ranks", 4, "--rate", "1gbit", "--", sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert lines == [f"rank {rank} of 4 on 2 4.0" for rank in range(4)]
    sent = [int(count.replace(",", "")) for count in last.partition(": ")[2].split()]
    assert len(sent) == 2
    assert min(sent) > 4 * 10**6, "every number, or half of them twice"
    assert "mpl" not in namespaces()


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="this system has no /dev/net/tun")
@needs_hosts
def test_links_of_long_latency_carry_the_same_and_take_longer():
    program = ("import time, numpy as np\nfrom mpi4py import MPI\nc = MPI.COMM_WORLD\n"
               "x = np.ones(10**5, np.float32); c.Barrier(); begin = time.perf_counter()\n"
               "for _ in range(5): c.Allreduce(MPI.IN_PLACE, x)\n"
               "if c.rank == 0: print(time.perf_counter() - begin, x[-1])")
    done = bench("cluster", "--hosts", 3, "--latency", "20ms", "--rate", "1gbit", "--", sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    seconds, number = map(float, done.stdout.split()[:2])
    assert number == 3.0**5
    assert seconds > 5 * 2 * 0.02, "at least there and back, each time"
    assert "mpl" not in namespaces()


@needs_hosts
def test_the_exit_status_is_passed_on_and_silence_on_the_links_is_an_error():
    done = bench("cluster", "--", sys.executable, "-c", "raise SystemExit(7)")
    assert done.returncode == 7
    done = bench("cluster", "--", "true")
    assert done.returncode == 2
    assert "hardly anything crossed the links" in done.stderr
    assert "Traceback" not in done.stderr


@needs_hosts
def test_hosts_of_a_process_that_is_gone_are_swept_away_and_others_are_not():
    child = subprocess.Popen(["true"])
    child.wait()
    stale, others = f"mpl{child.pid}h0", ("mpl0", f"mpl{os.getpid()}h77")
    try:
        for name in (stale, *others):
            subprocess.run(["ip", "netns", "add", name], check=True)
        with cluster.Hosts(1):
            found = namespaces().split()
        assert stale not in found
        assert set(others) <= set(found)
    finally:
        for name in (stale, *others):
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)


@needs_hosts
def test_schedules_in_turn_on_emulated_hosts(tmp_path):
    done = bench("schedules", "--hosts", 2, "--rate", "200mbit,1gbit", "--net", "alexnet-mini", "--batch", 4,
                 "--steps", 2, "--rounds", 1, "--schedules", "oneshot,planned",
                 "--json", tmp_path / "f", "--plot", tmp_path / "f.png")
    assert done.returncode == 0, done.stdout + done.stderr
    slow, fast = json.loads((tmp_path / "f").read_text())
    assert (slow["rate"], fast["rate"], slow["hosts"]) == (200e6, 1e9, 2)
    assert [row["schedule"] for row in slow["rows"]] == ["oneshot", "planned"]
    size = 4 * nets.build("alexnet-mini").size
    for row in slow["rows"]:
        assert set(row) == ROWS
        assert row["bytes_on_wire"] > size, "two ranks send each other every number once, or half of them twice"
        assert row["speedup"] == pytest.approx(row["images_per_second"] / slow["rows"][0]["images_per_second"])
        assert row["efficiency"] == pytest.approx(row["images_per_second"] / row["alone_images_per_second"])
        both = row["compute_seconds"], row["communication_seconds"]
        assert row["bound_seconds"] == pytest.approx(sum(both) if row["schedule"] == "oneshot" else max(both))
    assert slow["predicted_seconds"].keys() == {"planned"}
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


@needs_hosts
def test_a_pytorch_model_in_turn_on_emulated_hosts(tmp_path):
    done = bench("torch", "--net", "gpt", "--batch", 1, "--steps", 6, "--rounds", 1, "--engines",
                 "ddp,layerwise+wire=bfloat16", "--json", tmp_path / "f")
    assert done.returncode == 0, done.stdout + done.stderr
    ddp, ours = json.loads((tmp_path / "f").read_text())
    assert (ddp["engine"], ours["engine"]) == ("ddp", "layerwise+wire=bfloat16")
    assert ours["progress"] in ("poll", "thread")
    assert ours["speedup"] == pytest.approx(ddp["iteration_seconds"] / ours["iteration_seconds"])
    assert 1.6 < ddp["bytes_on_wire"] / ours["bytes_on_wire"] < 2.5, "half as many bytes a number, a step more or less"


def test_pytorch_models_have_the_published_numbers_of_parameters():
    torch_models = pytest.importorskip("bench.torch_models")
    for name, expected in (("alexnet", 60_965_224), ("googlenet", 6_998_552), ("resnet50", 25_557_032)):
        assert sum(p.numel() for p in torch_models.MODELS[name][0]().parameters()) == expected


@pytest.mark.parametrize(("words", "message"), [
    (["cluster"], "no command"),
    (["cluster", "--hosts", "999", "--", "true"], "expected 1 to 200"),
    (["schedules", "--net", "alexnet-mini", "--schedules", "oneshot,magic"], "invalid choice: 'magic'"),
    (["schedules", "--hosts", "2", "--peer", "torch", "--batch", "balance"], "try: --batch 16"),
    (["schedules", "--error-feedback"], "goes with --wire bfloat16"),
    (["allreduce"], "one rank has nobody to talk to"),
    (["overlap"], "one rank has nobody to talk to"),
    (["schedules", "--latency", "1ms"], "are of emulated links | try: with --hosts 2"),
    (["predict", "--rate", "1gbit"], "are of emulated links | try: with --hosts 2"),
    (["cluster", "--latency", "fast", "--", "true"], "expected a time such as 50ms or 2us, got 'fast'"),
])
def test_what_does_not_work_is_said_in_one_line(words, message):
    done = bench(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_root_a_clear_message(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="needs root"), cluster.Hosts(2):
        pass


@pytest.mark.parametrize(("text", "bits"), [("none", float("inf")), ("500mbit", 5e8), ("2.5gbit", 2.5e9)])
def test_rates_are_bits_a_second(text, bits):
    assert shared.rate(text) == bits
    assert schedules.emulated().parse_args(["--rate", f"{text},1kbit"]).rate == [bits, 1e3]
