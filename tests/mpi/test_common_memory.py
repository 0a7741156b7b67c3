"""Arrays whose pages become those of one file, and their own again."""

import ctypes
import os
import tempfile

import numpy as np
import pytest

import kernels
from kernels.layout import HUGE
from mpilayer.base.errors import AgreedError
from mpilayer.mpi import levels
from mpilayer.mpi.common_memory import CommonMemory
from tests.ranks import on_ranks

SIZES = 1, 1000, 1024, HUGE // 4 - 1, HUGE // 4, HUGE + 5  # floats


def row(common, number, size):
    """The array of a rank, as this one sees it."""
    begin = common.rows + number * common.stride
    return np.frombuffer((ctypes.c_float * size).from_address(begin), np.float32)


@on_ranks(1, 3)
def test_all_ranks_see_each_array_where_it_is_and_then_no_more(ranks):
    for size in SIZES:
        beside, array = kernels.pages(size), kernels.pages(size)
        view, place = array[size // 2:], array.ctypes.data
        array[:] = beside[:] = np.arange(size) + ranks.rank
        common = CommonMemory(ranks, array)
        assert array.ctypes.data == place
        for number in range(ranks.size):
            np.testing.assert_array_equal(row(common, number, size), np.arange(size, dtype=np.float32) + number)
        ranks.meet()
        row(common, (ranks.rank + 1) % ranks.size, size)[:] = 7
        ranks.meet()
        assert (view == 7).all()
        common.Free()
        assert (array == 7).all()
        ranks.meet()
        row(common, (ranks.rank + 1) % ranks.size, size)[:] = 8
        ranks.meet()
        assert (array == 7).all(), "its own again"
        np.testing.assert_array_equal(beside, np.arange(size, dtype=np.float32) + ranks.rank)


@on_ranks(2)
def test_other_memory_is_refused_on_all_ranks(ranks):
    for array in (np.zeros(2048, np.float32), kernels.pages(2048)[1024:], kernels.empty((2048,))):
        with pytest.raises(AgreedError, match="expected gradients in this computer's memory"):
            CommonMemory(ranks, kernels.pages(2048) if ranks.rank else array)


def refused(*arguments):
    """In place of a call of the system."""
    raise OSError


@on_ranks(2)
def test_ranks_that_cannot_open_each_others_memory_use_a_file_or_say_that_there_is_no_room(ranks):
    array = kernels.pages(5000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "memfd_create", refused)
        common = CommonMemory(ranks, array)
        array[:] = 1
        ranks.meet()
        assert row(common, 1 - ranks.rank, 5000).sum() == 5000
        ranks.meet()
        common.Free()
        patch.setattr(os, "posix_fallocate", refused)
        with pytest.raises(AgreedError, match=r"no room for 20,000 bytes of each rank .*--shm-size"):
            CommonMemory(ranks, array)
        assert levels.missing(ranks) == "the ranks of a node cannot share memory"


@on_ranks(2, 3)
def test_a_process_that_is_another_for_others_is_not_taken_for_the_first_rank(ranks):
    """As in containers that each have process numbers of their own: the file opened by its number is another one."""
    array, (other, path) = kernels.pages(5000), tempfile.mkstemp()
    os.unlink(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: "self")
        patch.setattr(os, "memfd_create", lambda name, make=os.memfd_create: os.dup2(make(name), other))
        common = CommonMemory(ranks, array)
        array[:] = ranks.rank
        ranks.meet()
        for number in range(ranks.size):
            assert (row(common, number, 5000) == number).all()
        assert ranks.rank == 0 or os.fstat(other).st_size == 0
        ranks.meet()
        common.Free()
