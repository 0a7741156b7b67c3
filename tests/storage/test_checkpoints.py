"""Checkpoints are whole or passed over; what cannot be written leaves the last one, and training goes on."""

import errno
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mpilayer.base.errors import AgreedError
from mpilayer.base.state import State, restore_values
from mpilayer.storage import checkpoint_files as files
from mpilayer.storage import equal_arrays as equal
from mpilayer.storage.checkpoints import Checkpoints
from tests.ranks import on_ranks


def state(ranks, number=0, own=True):
    """Arrays of odd sizes, some on every rank alike."""
    shared = {"a": np.arange(7, dtype=np.float32) + number, "b/c": np.full((3, 5), number, np.int16),
              "none": np.zeros((0, 2)), "one": np.array(number, np.float64)}
    if ranks.rank % 2:  # the order of a dictionary is no promise
        shared = dict(reversed(shared.items()))
    return State(shared, {"mine": np.full(4, 10.0 * ranks.rank + number)} if own else {}, {"n": number})


class Folder:
    """A temporary folder of all ranks, in a `with` block."""

    def __init__(self, ranks):
        self.ranks = ranks

    def __enter__(self):
        self.path = Path(self.ranks.bcast(tempfile.mkdtemp() if self.ranks.rank == 0 else None))
        return self.path

    def __exit__(self, *_):
        self.ranks.meet()
        if self.ranks.rank == 0:
            shutil.rmtree(self.path, ignore_errors=True)
        self.ranks.meet()


def written(ranks, folder, count, keep=2, warnings=None, **about):
    said = []
    checkpoints = Checkpoints(ranks, folder, keep, about, said.append, (warnings or []).append)
    for number in range(1, count + 1):
        found, values = state(ranks, number), {"inner": 0}
        checkpoints.save(found, rank=ranks.rank, values=values)
        values["inner"] = "changed while it is written"
        for array in (*found.equal.values(), *found.own.values()):
            array[...] = 99
    checkpoints.finish()
    ranks.meet()
    return checkpoints, said


def check(ranks, loaded, number):
    found, expected = state(ranks), state(ranks, number)
    loaded.put(found)
    for mine, theirs in ((found.equal, expected.equal), (found.own, expected.own)):
        for name, array in theirs.items():
            assert np.array_equal(mine[name], array), name
    assert loaded.of_this_rank() == {"rank": ranks.rank, "values": {"inner": 0}, "state": {"n": number}}


@on_ranks(1, 2, 5)
def test_the_newest_comes_back_and_the_oldest_go(ranks):
    with Folder(ranks) as folder:
        checkpoints, said = written(ranks, folder, 4)
        assert files.numbers(folder) == [4, 3]
        check(ranks, checkpoints.newest(), 4)
        checkpoints.close()
        again = Checkpoints(ranks, folder)
        again.save(state(ranks, 9), rank=ranks.rank, values={"inner": 0})
        again.finish()
        ranks.meet()
        assert files.numbers(folder) == [5, 4]
        check(ranks, again.newest(), 9)
        again.close()
        assert said == []


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def changed(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"rank-1.npz": (cut, changed, Path.unlink), "rank-0.npz": (changed,),
           files.MANIFEST: (cut, changed, Path.unlink, lambda path: path.write_text("[1]"))}


@on_ranks(2, 3)
def test_a_damaged_one_is_passed_over_with_a_line(ranks):
    for name, damages in DAMAGES.items():
        for damage in damages:
            with Folder(ranks) as folder:
                checkpoints, said = written(ranks, folder, 2)
                if ranks.rank == 0:
                    damage(files.place(folder, 2) / name)
                ranks.meet()
                check(ranks, checkpoints.newest(), 1)
                assert len(said) == (ranks.rank == 0)
                assert all(f"{files.place(folder, 2)} is passed over: {name}" in line for line in said)
                if ranks.rank == 0:
                    damage(files.place(folder, 1) / name)
                ranks.meet()
                assert checkpoints.newest() is None
                checkpoints.close()


@on_ranks(2)
def test_what_a_killed_run_was_writing_is_never_seen_and_is_removed(ranks):
    with Folder(ranks) as folder:
        checkpoints, _ = written(ranks, folder, 1)
        checkpoints.close()
        files.write_rank(files.place(folder, 2, partial=True), ranks.rank, np.zeros(3, np.uint8), {}, "{}")
        ranks.meet()
        again = Checkpoints(ranks, folder)
        check(ranks, again.newest(), 1)
        assert not files.place(folder, 2, partial=True).exists()
        again.close()


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@on_ranks(2, 3)
def test_a_full_disk_is_a_warning_and_leaves_the_last_one(ranks):
    for broken in ("savez", "rename"):
        with Folder(ranks) as folder:
            warnings, owner = [], np if broken == "savez" else files.os
            checkpoints, _ = written(ranks, folder, 1, warnings=warnings)
            checkpoints.warn, original = warnings.append, getattr(owner, broken)
            if ranks.rank == ranks.size - 1 or broken == "rename":
                setattr(owner, broken, full)
            checkpoints.save(state(ranks, 7), rank=ranks.rank, values={"inner": 0})
            checkpoints.finish()
            setattr(owner, broken, original)
            ranks.meet()
            assert files.numbers(folder) == [1]
            assert not files.place(folder, 2, partial=True).exists()
            assert len(warnings) == (ranks.rank == 0)
            assert all("checkpoint 2" in line and "No space left on device" in line for line in warnings)
            checkpoints.save(state(ranks, 8), rank=ranks.rank, values={"inner": 0})
            checkpoints.finish()
            ranks.meet()
            check(ranks, checkpoints.newest(), 8)
            checkpoints.close()


@on_ranks(2)
def test_a_folder_that_has_gone_comes_back(ranks):
    with Folder(ranks) as folder:
        checkpoints, _ = written(ranks, folder, 1)
        if ranks.rank == 0:
            shutil.rmtree(folder)
        ranks.meet()
        checkpoints.save(state(ranks, 2), rank=ranks.rank, values={"inner": 0})
        checkpoints.finish()
        ranks.meet()
        check(ranks, checkpoints.newest(), 2)
        checkpoints.close()


@on_ranks(2)
def test_hosts_that_share_no_folder_are_told_so(ranks):
    with Folder(ranks) as folder:
        warnings, path = [], folder if ranks.rank == 0 else Path(tempfile.mkdtemp())
        checkpoints = Checkpoints(ranks, folder, warn=warnings.append)
        checkpoints.folder = path
        checkpoints.save(state(ranks, 1))
        checkpoints.finish()
        ranks.meet()
        assert files.numbers(folder) == []
        assert all("rank-1.npz is not there; all hosts must share the folder" in line for line in warnings)
        assert len(warnings) == (ranks.rank == 0)
        checkpoints.close()


@on_ranks(2)
def test_another_run_is_refused(ranks):
    with Folder(ranks) as folder:
        checkpoints, _ = written(ranks, folder, 1, **{"--net": "alexnet", "samples": "7"})
        checkpoints.about["--net"] = "resnet50"
        with pytest.raises(AgreedError, match=r"is of a run with --net alexnet \| expected resnet50"):
            checkpoints.newest()
        checkpoints.about["--net"] = "alexnet"
        with pytest.raises(AgreedError, match="another run writes checkpoints"):
            Checkpoints(ranks, folder)
        other = state(ranks)
        other.equal["a"] = np.zeros(8, np.float32)
        with pytest.raises(AgreedError, match=r"a \| does not fit"):
            checkpoints.newest().put(other)
        checkpoints.close()


@on_ranks(2)
def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(ranks):
    for path in (Path("/proc/none"), Path(__file__)):
        with pytest.raises(AgreedError, match="cannot write checkpoints to"):
            Checkpoints(ranks, path)


@on_ranks(2)
def test_a_version_of_the_future_is_an_error_and_not_passed_over(ranks):
    with Folder(ranks) as folder:
        checkpoints, _ = written(ranks, folder, 1)
        if ranks.rank == 0:
            path = files.place(folder, 1) / files.MANIFEST
            path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
        ranks.meet()
        with pytest.raises(AgreedError, match=r"version 99 of mpilayer checkpoint \| expected 1"):
            checkpoints.newest()
        checkpoints.close()


def test_parts_of_all_ranks_make_up_all_arrays():
    arrays = {"x": np.arange(11, dtype=np.float32), "y": np.arange(5, dtype=np.uint8), "z": np.zeros((0, 3))}
    size = equal.size_of(equal.table(arrays))
    assert size == 49
    for ranks in (1, 2, 3, 7, 60):
        back = {name: np.zeros_like(array) for name, array in arrays.items()}
        for rank in range(ranks):
            begin, end = equal.part_of(size, rank, ranks)
            equal.put(back, begin, equal.piece(arrays, begin, end))
        assert all(np.array_equal(back[name], array) for name, array in arrays.items())


class Inner:
    keeps = "count", "table"

    def __init__(self, value):
        self.count, self.table = value, {"x": np.full(2, value), "y": (np.full(3, value),)}


class Keeper:
    keeps = "inner", "seen", "step", "where", "inners"

    def __init__(self, value):
        self.inner, self.inners = Inner(value), {"first": Inner(value + 1)}
        self.seen, self.step, self.where = Counter({value: 2}), value or None, {value, 7}


def test_what_an_object_keeps_is_found_and_restored():
    old, new = Keeper(3), Keeper(0)
    saved = State.of(old, "k/")
    assert set(saved.own) == {f"k/{name}/table/{key}" for name in ("inner", "inners/first") for key in ("x", "y/0")}
    restore_values(new, json.loads(json.dumps(saved.values)), "k/")
    assert (new.inner.count, new.inners["first"].count, new.step, new.where) == (3, 4, 3, {3, 7})
    assert new.seen == Counter({3: 2})
    with pytest.raises(Exception, match=r"k/step \| not in the checkpoint"):
        restore_values(new, {name: value for name, value in saved.values.items() if name != "k/step"}, "k/")
