import numpy as np
import pytest

from mpilayer.base.errors import AgreedError, UserError
from mpilayer.mpi import job, launcher
from mpilayer.mpi.ranks import Ranks
from tests.ranks import environment, on_ranks, python


@on_ranks(1, 3)
def test_what_is_most_or_true_on_some_rank_is_known_on_all(ranks):
    assert ranks.most(10 - ranks.rank) == 10
    assert ranks.most(-0.5 * ranks.rank) == 0
    last = ranks.rank == ranks.size - 1
    assert ranks.any(last)
    assert ranks.all(last) == (ranks.size == 1)
    assert not ranks.any(False)
    assert ranks.all("text")
    assert ranks.bcast([ranks.rank], root=ranks.size - 1) == [ranks.size - 1]


@on_ranks(1, 3)
def test_ranks_know_each_other(ranks):
    assert ranks.gather(ranks.rank) == list(range(ranks.size))
    assert ranks.node.size == ranks.size
    assert ranks.crowded == (ranks.size > ranks.cores)
    np.testing.assert_array_equal(ranks.total(np.array([1.0, ranks.rank])), [ranks.size, sum(range(ranks.size))])


@on_ranks(3)
def test_agree_raises_the_lowest_ranks_error_everywhere(ranks):
    def fail_on_two():
        if ranks.rank > 0:
            raise UserError(f"broken on {ranks.rank}")
        return "fine"

    with pytest.raises(UserError, match=r"^rank 1 \| broken on 1$"):
        ranks.agree(fail_on_two)
    assert ranks.agree(lambda: ranks.rank) == ranks.rank


@on_ranks(4)
def test_one_rank_and_only_one_takes_the_token(ranks):
    token = job.ErrorToken(ranks)
    token.create()
    assert sum(ranks.gather(token.take())) == 1


@on_ranks(2)
def test_a_long_wait_is_reported_once(ranks):
    import contextlib
    import io
    import time

    ranks.patience = 0.6
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        if ranks.rank == 1:
            time.sleep(1.5)
        ranks.where = "layerwise | step 7"
        ranks.wait(ranks.comm.Ibarrier(), "conv2")
    expected = "rank 0 | layerwise | step 7 | conv2 | still waiting after" if ranks.rank == 0 else ""
    assert said.getvalue().startswith(expected)
    assert said.getvalue().count("waiting") == (ranks.rank == 0)


def test_ranks_started_by_another_mpis_launcher_are_recognised():
    assert launcher.launched_apart({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}, 1) == (4, 2, "Open MPI")
    assert launcher.launched_apart({"PMI_SIZE": "3", "PMI_RANK": "0"}, 1) == (3, 0, "MPICH or Intel MPI")
    assert launcher.launched_apart({"PMI_SIZE": "3", "PMI_RANK": "0"}, 3) is None
    assert launcher.launched_apart({"PMI_SIZE": "1", "PMI_RANK": "0"}, 1) is None
    assert launcher.launched_apart({}, 1) is None


@on_ranks(2)
def test_closing_twice_is_closing_once_and_use_after_it_says_so(ranks):
    other = Ranks(ranks.comm)
    assert other.gather(other.rank) == [0, 1]
    other.close()
    other.close()
    for use in (other.meet, lambda: other.gather(1), lambda: other.total(np.ones(1)), lambda: other.node,
                lambda: other.agree(int)):
        with pytest.raises(RuntimeError, match=r"these Ranks are closed \| expected"):
            use()


@on_ranks(2)
def test_a_variable_that_makes_no_sense_on_one_rank_is_told_to_all(ranks):
    with pytest.MonkeyPatch.context() as patch:
        if ranks.rank == 1:
            patch.setenv("MPILAYER_PATIENCE", "abc")
        with pytest.raises(AgreedError, match=r"^rank 1 \| MPILAYER_PATIENCE=abc: expected a positive number"):
            Ranks(ranks.comm)
    Ranks(ranks.comm).close()


@on_ranks(1, 3)
def test_values_come_to_the_first_rank_alone(ranks):
    mine = None if ranks.rank == 1 else {"rank": ranks.rank, "text": "x" * 10**ranks.rank}
    found = ranks.gather_to_first(mine)
    expected = [{"rank": rank, "text": "x" * 10**rank} if rank != 1 else None for rank in range(ranks.size)]
    assert found == (expected if ranks.rank == 0 else None)


@on_ranks(1)
def test_what_is_not_a_communicator_of_this_rank_is_refused(ranks):
    MPI = ranks.MPI
    apart = ranks.comm.Split(MPI.UNDEFINED)
    for comm in (MPI.COMM_NULL, apart):
        with pytest.raises(ValueError, match=r"expected a communicator that this rank belongs to, got COMM_NULL"):
            Ranks(comm)
    for comm in ("x", 3):
        with pytest.raises(TypeError, match=rf"expected an mpi4py intracommunicator, got {type(comm).__name__}"):
            Ranks(comm)


@on_ranks(2)
def test_an_intercommunicator_is_refused(ranks):
    alone = ranks.comm.Split(ranks.rank)
    between = alone.Create_intercomm(0, ranks.comm, 1 - ranks.rank)
    with pytest.raises(TypeError, match="expected an mpi4py intracommunicator, got Intercomm"):
        Ranks(between)
    between.Free()
    alone.Free()


def test_an_mpi_that_nobody_has_initialised_allows_calls_of_all_threads():
    """With progress="thread" a loop's own MPI calls come beside those of the queue."""
    program = ("import mpi4py; mpi4py.rc.initialize = False\nimport mpilayer\n"
               "with mpilayer.Ranks() as ranks: print(ranks.MPI.Query_thread() == ranks.MPI.THREAD_MULTIPLE)")
    assert python(program, environment()).stdout.strip() == "True"
