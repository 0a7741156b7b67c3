"""What ranks ask of MPI beside gradients: it must not grow with the number of ranks, but on the first one."""

import tempfile
from pathlib import Path

import pytest

from bench import growth
from mpilayer.training import meter
from tests.ranks import on_ranks

SCHEDULES = "planned --reduction ordered --check-replicas 1", "ps --staleness 1"


@on_ranks(8, seconds=120)
def test_calls_and_bytes_of_a_rank_do_not_grow_from_2_ranks_to_8(ranks):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(meter, "MOST_SHOWN", 2)  # ranks that run.json shows
        for schedule in SCHEDULES:
            found = [counted(ranks, size, schedule, ranks.bcast(folder)) for size in (2, 8)]
            if ranks.rank == 0:
                for phase, calls in found[1].items():
                    for call, (times, _, others) in calls.items():
                        few_times, _, few = found[0][phase].get(call, (0, 0, 0))
                        assert times <= few_times, (schedule, phase, call, "more often")
                        assert others <= 2 * few + 64, (schedule, phase, call, "more bytes")  # of four times the ranks


def counted(ranks, size, schedule, folder):
    """The table of so many of the ranks, on rank 0."""
    part, table = ranks.split(ranks.rank < size), None
    if ranks.rank < size:
        table = growth.measure(part, [*growth.STEPS, "--batch", "8", "--schedule", *schedule.split(),
                                      "--out", str(Path(folder, f"{size} {schedule}"))])
    ranks.meet()
    return table


@on_ranks(2)
def test_it_counts_what_grows(ranks):
    """A rank that gathers from all others is noticed."""
    calls = growth.Calls()
    comm = growth.counting(ranks.MPI, calls)(ranks.comm)
    comm.Dup().allgather("a text")
    assert calls.found["start-up", "allgather"][1] > 2 * len("a text")
