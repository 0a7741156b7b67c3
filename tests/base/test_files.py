"""Files that are whole or not there."""

import os

import pytest

from mpilayer.base import files
from mpilayer.base.files import replaced, replacing

NAMELESS = files._nameless


@pytest.fixture(params=["with files without a name", "without"], autouse=True)
def file_system(request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(files, "_nameless", lambda folder: None)


def test_a_text_that_is_being_written_has_no_name(tmp_path, monkeypatch):
    """A process that is killed leaves nothing behind."""
    monkeypatch.setattr(files, "_nameless", NAMELESS)
    handle = NAMELESS(tmp_path)
    assert handle is not None, "expected a temporary folder on a file system that has such files, as all common ones"
    os.close(handle)
    with replacing(tmp_path / "a.txt") as file:
        file.write("new")
        file.flush()
        assert os.listdir(tmp_path) == []
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(str(1 // 0))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_signal_just_after_the_file_took_its_place_is_not_lost(tmp_path, monkeypatch):
    replace = os.replace

    def then_a_signal(source, target):
        replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", then_a_signal)
    with pytest.raises(KeyboardInterrupt), replaced(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
