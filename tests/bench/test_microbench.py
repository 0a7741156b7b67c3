"""bench allreduce and bench overlap on ranks: what they write follows from its own times."""

import json

import pytest

import nets
from mpilayer.mpi.link_model import LinkModel
from mpilayer.mpi.progress import PROGRESS
from tests.ranks import mpiexec


def bench(tmp_path, *words):
    done = mpiexec(2, "-m", "bench", *words, "--rounds", 2, "--json", tmp_path / "f", "--plot", tmp_path / "f.png",
                   seconds=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((tmp_path / "f").read_text()), done.stdout


def test_allreduce_lists_every_way_for_every_size(tmp_path):
    found, printed = bench(tmp_path, "allreduce", "--sizes", "4,4096,400000")
    rows = found["rows"]
    ways = {(way, wire) for way in ("blocking", "non-blocking", "persistent", "ordered", "levels")
            for wire in ("float32", "bfloat16")}
    for size in (4, 4096, 400_000):
        of_size = {(row["way"], row["wire"]): row for row in rows if row["bytes"] == size}
        assert of_size.keys() == ways
        for row in of_size.values():
            assert row["least_seconds"] <= row["seconds"] <= row["most_seconds"]
            assert row["algorithm_bandwidth"] == pytest.approx(size / row["seconds"])
            assert row["bus_bandwidth"] == pytest.approx(row["algorithm_bandwidth"])  # 2 (P-1)/P is 1 for two
            assert row["ratio"] == pytest.approx(of_size["blocking", "float32"]["seconds"] / row["seconds"])
    first, _, last = [row["seconds"] for row in rows if (row["way"], row["wire"]) == ("non-blocking", "float32")]
    assert found["link"] == LinkModel.between(4, first, 400_000, last)._asdict()
    assert "ns a byte" in printed


def test_overlap_tells_what_each_way_of_progress_hides(tmp_path):
    rows, printed = bench(tmp_path, "overlap", "--sizes", "40000,400000", "--chunk", "65536", "--wire", "bfloat16")
    assert [(row["bytes"], row["progress"]) for row in rows] == [(size, name) for size in (40_000, 400_000)
                                                                for name in PROGRESS]
    for row in rows:
        parts = row["post_seconds"] + row["overlapped_compute_seconds"] + row["wait_seconds"]
        assert row["total_seconds"] == pytest.approx(parts)
        both = row["communication_seconds"], row["compute_seconds"]
        assert row["hidden"] == pytest.approx(min(1, max(0, (sum(both) - parts) / min(both))))
        assert row["slowdown"] == pytest.approx(row["overlapped_compute_seconds"] / both[1] - 1)
    assert all(row["mpi_seconds"] == 0 for row in rows if row["progress"] == "none")
    assert "hidden" in printed


def test_the_cost_of_a_checkpoint(tmp_path):
    done = mpiexec(2, "-m", "bench", "checkpoints", "--nets", "alexnet-mini", "--rounds", 2, "--every", 3, "--folder",
                   tmp_path, "--json", tmp_path / "rows")
    assert done.returncode == 0, done.stderr
    [row] = json.loads((tmp_path / "rows").read_text())
    size = 4 * nets.build("alexnet-mini").size / 2  # of weights, velocities, and gradients in flight
    assert 3 * size <= row["bytes_per_rank"] < 3.01 * size
    assert 0 < row["copy_seconds"] < row["written_seconds"]
    assert len(row["growths"]) == 2
    assert f"{1e3 * row['step_seconds']:.1f}" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


def test_the_cost_of_comparing_replicas(tmp_path):
    done = mpiexec(2, "-m", "bench", "replicas", "--nets", "alexnet-mini", "--rounds", 2, "--json", tmp_path / "rows")
    assert done.returncode == 0, done.stderr
    [row] = json.loads((tmp_path / "rows").read_text())
    assert row["check_seconds"] > 0
    assert row["step_seconds"] > 0
    assert f"{1e3 * row['step_seconds']:.2f}" in done.stdout
