import errno
import os
import subprocess
import tempfile
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from mpilayer.base.errors import AgreedError, UserError
from mpilayer.data import DataError, open_data
from mpilayer.data.node_shared import hold
from mpilayer.mpi import node_file
from tests.ranks import on_ranks


def numbers():
    return np.arange(1_000_000, dtype=np.int32).reshape(1000, 1000)


def test_without_ranks_it_is_the_array():
    array = hold(numbers)
    np.testing.assert_array_equal(array, numbers())
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@on_ranks(1, 3)
def test_one_rank_loads_and_all_read_the_same_memory(ranks):
    loaded = []

    def load():
        loaded.append(ranks.rank)
        return numbers()

    array = hold(load, ranks)
    assert ranks.gather(len(loaded)) == [1] + [0] * (ranks.size - 1)
    np.testing.assert_array_equal(array, numbers())
    assert array.dtype == np.int32
    assert not array.flags.writeable
    ranks.meet()
    if ranks.size > 1 and ranks.rank == 0:
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        np.frombuffer(base.base, np.int32)[:1] = -7  # behind numpy's back
    ranks.meet()
    assert array[0, 0] == (-7 if ranks.size > 1 else 0)
    ranks.meet()


@on_ranks(3)
def test_an_error_reaches_all(ranks):
    def load():
        raise DataError("file | damaged | try: another")

    with pytest.raises(UserError, match="damaged"):
        hold(load, ranks)


@on_ranks(3)
def test_digits_of_all_ranks_are_the_same(ranks):
    with open_data(ranks=ranks) as data:
        x, y = data.train.read(np.arange(100))
        with open_data() as alone:
            np.testing.assert_array_equal(x, alone.train.read(np.arange(100))[0])
        ranks.meet()


@on_ranks(3)
def test_a_failure_of_one_rank_is_raised_on_all_and_nobody_waits(ranks):
    """Rank 1 alone is given another path; on a node, and where each rank passes for a node of its own."""
    for path, part in (("/nowhere/some.h5", "no such file"), ("/proc/cpuinfo", "the file is empty")):
        with pytest.raises(AgreedError) as error:
            open_data(path if ranks.rank == 1 else "digits", ranks=ranks)
        assert str(error.value).startswith(f"rank 1 | {path} | ")
        assert part in str(error.value)
    with pytest.raises(AgreedError, match="rank 2 .* unknown source"):
        open_data("nothing" if ranks.rank == 2 else "digits", ranks=ranks)


def fill(folder):
    """A small file system; whether it could be mounted."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    return done.returncode == 0


@on_ranks(2)
def test_where_the_node_has_no_room_nothing_is_shared(ranks):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        folder = Path(ranks.bcast(folder))
        if not ranks.bcast(ranks.rank == 0 and fill(folder)):
            patch.setattr(os, "posix_fallocate", refuse)
        patch.setattr(node_file, "PLACES", (str(folder),))
        try:
            assert hold(numbers, ranks) is None
            assert hold(lambda: np.arange(100), ranks).sum() == 4950 or not folder.is_mount()
            with open_data(ranks=ranks) as data:
                assert len(data.train.read(np.arange(10))[1]) == 10
        finally:
            ranks.meet()
            if ranks.rank == 0 and folder.is_mount():
                subprocess.run(["umount", "-l", str(folder)], check=True)
            ranks.meet()


def refuse(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@on_ranks(2)
def test_nothing_of_it_has_a_name(ranks):
    array = hold(numbers, ranks)
    ranks.meet()
    mapped = {area.path for area in psutil.Process().memory_maps() if area.path.startswith("/dev/shm/mpilayer")}
    assert mapped
    assert not any(map(os.path.exists, mapped))
    assert array[999, 999] == 999_999


@on_ranks(2)
def test_no_place_for_temporary_files_is_said(ranks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_file, "PLACES", ("/nowhere", "/proc"))
        with pytest.raises(UserError, match="no folder for temporary files .* TMPDIR"):
            hold(numbers, ranks)


@on_ranks(2)
def test_files_of_other_arrays_are_named_before_anything_is_shared(ranks):
    """One with a test part of its own, and one without, of as many samples."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(ranks.bcast(folder)) / f"{ranks.rank}.h5"
        x, y = np.zeros((40, 4, 4, 1), np.uint8), np.arange(40) % 4
        with h5py.File(path, "w") as file:
            if ranks.rank == 0:
                file["x"], file["y"] = x, y
            else:
                file["x"], file["y"], file["x_test"], file["y_test"] = x[:36], y[:36], x[36:], y[36:]
        with pytest.raises(AgreedError, match=r"arrays: 1 on rank 0 .*; 2 on rank 1 "):
            open_data(path, ranks=ranks)
        ranks.meet()
