"""What is chosen at start-up where options say auto, whatever MPI and machine there are."""

import functools

import numpy as np
import pytest

import kernels
from mpilayer.base.errors import UserError
from mpilayer.exchange import automatic, probe
from mpilayer.exchange.settings import AUTO, Settings
from mpilayer.mpi import ulfm
from mpilayer.mpi.collectives import Calls
from mpilayer.mpi.levels import Levels
from mpilayer.mpi.progress import PROGRESS
from tests.ranks import on_ranks


class Single:
    """An MPI that only one thread may call."""

    def __init__(self, MPI):
        self.MPI = MPI

    def __getattr__(self, name):
        return getattr(self.MPI, name)

    def Query_thread(self):  # noqa: N802 - MPI's name
        return self.MPI.THREAD_SINGLE


def chosen(ranks, crowded=False, level=None, **settings):
    """(the Settings, what was said) on ranks of that kind."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "crowded", crowded)
        if level == "single":
            patch.setattr(ranks, "MPI", Single(ranks.MPI))
        found = automatic.choose(ranks, Settings(**settings), np.zeros(25_000, np.float32), said.append)
    return found, " | ".join(said)


@on_ranks(1, 2)
def test_threads_are_refused_by_an_mpi_that_bears_none(ranks):
    for crowded in (False, True):
        settings, said = chosen(ranks, crowded, "single", progress="thread", bucket=None, chunk=None)
        assert settings.progress == "poll", crowded
        assert "progress poll instead of thread" in said
    settings, said = chosen(ranks, progress="thread", bucket=None, chunk=None)
    assert settings.progress == "thread"
    assert "instead" not in said


@on_ranks(2)
def test_threads_are_not_tried_where_mpi_bears_none(ranks):
    tried = []
    with pytest.MonkeyPatch.context() as patch:
        for name, way in PROGRESS.items():
            patch.setitem(PROGRESS, name, lambda engine, name=name, way=way: tried.append(name) or way(engine))
        settings, _ = chosen(ranks, level="single", **AUTO)
    assert settings.progress != "thread"
    assert set(tried) == set(PROGRESS) - {"thread"} - ({"kernel"} if kernels.num_threads() > 1 else set())


@on_ranks(2)
def test_one_crowded_machine_keeps_all_ranks_from_measuring(ranks):
    settings, said = chosen(ranks, crowded=ranks.rank == 1, **AUTO)
    assert settings == Settings(progress="poll", bucket=None, chunk=None, reduction="levels")
    assert "not measured" in said


@on_ranks(2)
def test_what_says_auto_is_measured_and_the_same_on_all_ranks(ranks):
    settings, said = chosen(ranks, **AUTO)
    assert settings.progress in PROGRESS
    assert len(set(ranks.gather((settings.bucket, settings.chunk)))) == 1
    assert "messages take" in said


class Timed(probe.Probe):
    """One of the reductions is the fastest by far."""

    def __init__(self, fastest, ranks, settings):
        super().__init__(ranks, settings)
        self.fast = settings.reduction == fastest

    def seconds(self, *arguments):
        return 1e-9 if self.fast else super().seconds(*arguments)


@on_ranks(4)
def test_sums_by_nodes_are_measured_where_there_are_nodes_of_several_ranks(ranks):
    assert chosen(ranks, reduction="auto")[0].reduction == "levels", "one node"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "_node", ranks.split(ranks.rank // 2))
        settings, said = chosen(ranks, reduction="auto")
        assert set(ranks.gather(settings.reduction)) == {settings.reduction} <= {"native", "ordered", "levels"}
        assert "a sum of 98 KiB takes, in ms: native " in said
        patch.setattr(automatic, "GAIN", 1e9)
        for fastest in ("ordered", "levels"):
            patch.setattr(automatic, "Probe", functools.partial(Timed, fastest))
            assert chosen(ranks, reduction="auto")[0].reduction == fastest
        patch.setattr(automatic, "Probe", probe.Probe)
        patch.setattr(automatic, "GAIN", 0)
        assert chosen(ranks, reduction="auto")[0].reduction == "native"


@on_ranks(1, 2)
def test_sums_are_left_to_mpi_where_common_memory_is_of_no_use(ranks):
    several = ranks.size > 1
    assert chosen(ranks, reduction="auto")[0].reduction == ("levels" if several else "native")
    assert chosen(ranks, reduction="auto", wire="powersgd")[0].reduction == "native", "it has sums of its own"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ulfm, "missing", lambda MPI: None)  # ranks may die, and nobody in shared memory would be told
        assert chosen(ranks, reduction="auto")[0].reduction in ("native", "ordered")
        with pytest.raises(UserError, match=r"reduction levels \| who waits in shared memory .* would not be told so"):
            Levels(Calls(ranks))


@on_ranks(2)
def test_computing_takes_as_long_as_asked_though_few_rows_take_longer_each(ranks):
    rows, found = [], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "operands", lambda count=64: rows.append(count) or (range(count), None))
        patch.setattr(kernels, "dense", lambda x, w: found.update(seconds=found.get("seconds", 0) + took(len(x))))
        patch.setattr(probe, "_timed", lambda function: found.update(seconds=0) or function() or found["seconds"])
        for seconds in (1e-4, 1e-2, 1.0):
            assert probe.Probe(ranks, Settings()).computation(seconds)[1] == pytest.approx(seconds, rel=0.1)
    assert max(rows) <= probe.LONGEST


def took(rows):
    """Seconds of a dense layer that is twice as fast with many rows as with 64."""
    return 1e-6 * (rows if rows > 256 else 2 * rows)
