"""Disturbed runs go on to the same bits (bench chaos)."""

import json

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
