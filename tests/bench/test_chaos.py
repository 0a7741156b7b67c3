"""Disturbed runs go on to the same bits (bench chaos)."""

import json

from bench import chaos, disturbances
from tests.bench.test_cluster import bench


def test_a_killed_rank_changes_no_bit(tmp_path):
    done = bench("chaos", "--runs", 1, "--seed", 2, "--kinds", "killed", "--json", tmp_path / "f")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "f").read_text())
    assert (row["kind"], row["runs"], row["as_undisturbed"], row["faults"]) == ("killed", 1, 1, [])
    assert row["restarts"] == 1


def test_an_unknown_disturbance_lists_the_known_ones():
    done = bench("chaos", "--kinds", "flood")
    assert done.returncode == 2
    assert "--kinds flood | expected killed, killed twice" in done.stderr


def test_going_on_without_a_rank_needs_open_mpi(monkeypatch):
    monkeypatch.setattr(disturbances, "find_launcher", lambda: ("mpiexec", False))
    shrinking = [kind for kind, found in disturbances.KINDS.items() if found.shrinks]
    assert len(shrinking) == 3
    assert all(map(disturbances.missing, shrinking))
    monkeypatch.setattr(disturbances, "find_launcher", lambda: ("mpiexec", True))
    assert {kind for kind in disturbances.KINDS if disturbances.missing(kind)} <= {"link down", "disk full"}


def test_the_numbers_must_be_the_same_and_of_fewer_ranks_to_rounding():
    calm = {"weights_sha256": "a", "test_loss": 0.5, "steps": 30}
    assert chaos.differs("replaced", {**calm, "weights_sha256": "b"}, calm)
    assert not chaos.differs("left behind", {**calm, "weights_sha256": "b", "test_loss": 0.5005}, calm)
    assert chaos.differs("left behind", {**calm, "test_loss": 0.502}, calm)
    assert chaos.differs("left behind", {**calm, "steps": 29}, calm)
