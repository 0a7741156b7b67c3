"""Sums over real ranks, through the engine: right, in the order promised, and honest about what is not finite."""

import itertools
import os
from types import SimpleNamespace

import numpy as np
import pytest

import kernels
from kernels.wire import ref
from mpilayer.base.errors import UserError
from mpilayer.compression.buckets import cut
from mpilayer.exchange.messages import INT_NUMBERS
from mpilayer.mpi.collectives import Calls, Native
from mpilayer.mpi.engine import Engine
from mpilayer.mpi.reductions import REDUCTIONS
from tests.ranks import on_ranks

SIZES = (1, 2, 17, 1001)


def bits(x):
    return ref.encode_bfloat16(np.asarray(x, np.float32))


def total(ranks, name, mine, persistent=True):
    """The sum over the ranks of `mine`, of the MPI or in rank order."""
    calls = Calls(ranks)
    calls.persistent &= persistent
    buffer, reduction = kernels.pages(mine.size, mine.dtype), REDUCTIONS[name](calls)
    buffer[:] = mine
    reduction.share(buffer)
    engine = Engine([[reduction.operations(buffer, 0)]], 1, calls.test)
    engine.mark(0, 0, ready=True)
    ranks.until(lambda: engine.advance() or engine.quiet or engine.error)
    assert not engine.error
    calls.free()
    return buffer


@on_ranks(1, 2, 3)
def test_sums_of_whole_numbers_are_exact_whatever_the_way(ranks):
    want = sum(range(1, ranks.size + 1))
    for name in REDUCTIONS:
        for persistent in (True, False):
            for size in SIZES:
                numbers = np.full(size, ranks.rank + 1, np.float32) * (np.arange(size, dtype=np.float32) % 7)
                expected = want * (np.arange(size) % 7)
                assert (total(ranks, name, numbers, persistent) == expected).all(), (name, persistent, size)
                rounded = ref.decode_bfloat16(total(ranks, name, bits(numbers), persistent))
                assert (rounded == expected).all(), (name, persistent, size)


@on_ranks(3, 4)
def test_ordered_and_levels_on_a_node_give_the_bits_of_a_loop_over_the_ranks(ranks):
    for name, size in itertools.product(("ordered", "levels"), SIZES):
        everyone = np.random.default_rng(size).standard_normal((ranks.size, size), np.float32)
        everyone[:, 0] = [1e8, 1, -1e8, 1][:ranks.size]  # of which the order of summation decides
        np.testing.assert_array_equal(total(ranks, name, everyone[ranks.rank]), ref.ordered_sum(everyone))
        rounded = ref.ordered_sum(ref.decode_bfloat16(bits(everyone)).astype(np.float32))
        np.testing.assert_array_equal(total(ranks, name, bits(everyone[ranks.rank])), bits(rounded))


@on_ranks(2)
def test_nan_and_overflow_survive_the_trip(ranks):
    mine = np.array([np.nan if ranks.rank else 1, np.inf, 3e38, -3e38], np.float32)
    for name in REDUCTIONS:
        for numbers in (mine, bits(mine)):
            found = total(ranks, name, numbers)
            found = found if found.dtype == np.float32 else ref.decode_bfloat16(found)
            assert np.isnan(found[0])
            np.testing.assert_array_equal(found[1:], [np.inf, np.inf, -np.inf])


@on_ranks(2)
def test_many_messages_of_both_kinds_at_once(ranks):
    """Twelve messages on three lanes, twice over the same memory."""
    for name in ("ordered", "levels"):
        many_messages(ranks, name)


def many_messages(ranks, name):
    calls, memory, sizes = Calls(ranks), kernels.pages(4 * 71_024), (5, 1000, 70_000) * 4
    parts = [memory[start:start + size] for start, size in zip(itertools.accumulate((16, 1008, 70_000) * 4, initial=0),
                                                               sizes, strict=False)]
    reduction = REDUCTIONS[name](calls)
    reduction.share(memory)
    engine = Engine([[reduction.operations(part, number % 3) for number, part in enumerate(parts)]], 3, calls.test)
    for step in (1, 2):
        for number, part in enumerate(parts):
            part[:] = step * number + ranks.rank
            engine.mark(0, number, ready=False)
            engine.mark(0, number, ready=True)
            engine.advance()
        ranks.until(lambda: engine.advance() or engine.quiet)  # each rank in its own time
        assert all((part == 2 * step * number + 1).all() for number, part in enumerate(parts))
    calls.free()


@on_ranks(2)
def test_every_operator_of_bfloat16_that_is_made_is_freed(ranks):
    made, make = [], Calls._create_bfloat16_sum

    def noted(calls):
        made.append(make(calls))
        return made[-1]

    numbers = bits(np.arange(5, dtype=np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Calls, "_create_bfloat16_sum", noted)
        for _ in range(20):
            total(ranks, "native", numbers)
    assert len(made) == 20
    assert all(op == ranks.MPI.OP_NULL for op in made)


@on_ranks(1, 2)
def test_numbers_that_mpi_would_take_for_others_are_refused(ranks):
    for name in REDUCTIONS:
        for dtype in (np.float64, np.float16, np.int32, np.int64, np.int16, np.uint8, np.complex64, bool):
            calls = Calls(ranks)
            with pytest.raises(TypeError, match=f"a sum of {np.dtype(dtype)} .* expected float32"):
                REDUCTIONS[name](calls).operations(np.ones(4, dtype), 0)
            calls.free()


@on_ranks(2)
def test_counts_and_displacements_beyond_an_int_are_an_error_and_do_not_wrap(ranks):
    """On an MPI whose collectives count with ints: what the calls get is looked at, and nothing is started."""
    calls, MPI = Calls(ranks), ranks.MPI
    calls.persistent = False
    buffer = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**31,), (0,))
    with pytest.raises(UserError, match=r"a message of 2,147,483,648 numbers \| expected at most 2,147,483,647"):
        calls.operation(0, "Allreduce", MPI.IN_PLACE, [buffer, MPI.FLOAT], op=MPI.SUM)
    fits = calls.operation(0, "Allreduce", MPI.IN_PLACE, [buffer[:-1], MPI.FLOAT], op=MPI.SUM)
    assert 2**31 - 1 in fits.start
    few = np.zeros(4, np.float32)
    for counts, starts in (([4, 2**31], [0, 4]), ([4, 4], [0, 2**31])):
        with pytest.raises(UserError, match="2,147,483,648"):
            calls.operation(0, "Allgatherv", MPI.IN_PLACE, [few, np.array(counts), np.array(starts), MPI.FLOAT])
    calls.free()


@pytest.mark.skipif(os.environ.get("MPILAYER_TEST_LARGE") != "1",
                    reason="takes 16 GiB of memory and a minute: set MPILAYER_TEST_LARGE=1")
@on_ranks(2, seconds=300)
def test_a_sum_of_more_numbers_than_an_int_counts(ranks):
    """4.3 GB a rank in bfloat16, zeros but for the ends, in the messages that the request queue would make."""
    size = 2**31 + 100
    found = np.zeros(size, np.uint16)
    found[[0, 2**31 - 1, 2**31, -1]] = bits([1, 2, 3, 4])
    buckets = cut([("one", 0, size)], None, 4 * INT_NUMBERS, 4 * INT_NUMBERS)
    calls = Calls(ranks)
    engine = Engine([[REDUCTIONS["native"](calls).operations(found[bucket.begin:bucket.end], 0)
                      for bucket in buckets]], 1, calls.test)
    for number in range(len(buckets)):
        engine.mark(0, number, ready=True)
    ranks.until(lambda: engine.advance() or engine.quiet)
    assert not engine.error
    assert ref.decode_bfloat16(found[[0, 1, 2**31 - 1, 2**31, -2, -1]]).tolist() == [2, 0, 4, 6, 0, 8]


@on_ranks(1)
def test_an_mpi_that_cannot_make_the_operator_of_bfloat16_says_so(ranks):
    calls = Calls(ranks)

    def refuse(*_):
        return ranks.MPI.ERR_OTHER

    calls.library = SimpleNamespace(MPI_Op_create=refuse)
    with pytest.raises(ranks.MPI.Exception):
        Native(calls).operations(bits(np.ones(5)), 0)
