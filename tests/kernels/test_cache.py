"""The cache of compiled kernels: damaged, full, or with no place to be in."""

import os
import random
import subprocess
import sys

import pytest

from tests.ranks import environment

PROGRAM = """
import sys
import numpy as np
from kernels import compiled
jit, inner = compiled.decorators()

@inner
def half(x):
    return x / 2

@jit
def total(x):
    found = 0.0
    for value in x:
        found += half(value)
    return found

print(total(np.arange(5.0)), sum(total.stats.cache_hits.values()))
"""
ONLY = """
import kernels.cache
from numba.core import caching
del caching.CacheImpl._locator_classes[:-1]
"""
FULL = """
import errno
import kernels.cache
from numba.core import caching

class Full:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, data): raise OSError(errno.ENOSPC, "No space left on device")

caching.open = lambda path, how: Full(open(path, how)) if "w" in how else open(path, how)
"""


@pytest.fixture
def place(tmp_path):
    """A program in a folder of its own, and a cache for it."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "cache").mkdir()
    return tmp_path


def run(place, **extra):
    return subprocess.run([sys.executable, str(place / "program.py")], capture_output=True, text=True, timeout=120,
                          cwd=place, env=environment(NUMBA_CACHE_DIR=str(place / "cache"), **extra))


def files(place):
    return sorted(file for file in (place / "cache").rglob("*.nb[ic]") if "program" in file.name)


def test_damaged_files_are_made_anew_with_one_line_each(place):
    assert run(place).stdout == "5.0 0\n"
    whole = files(place)
    assert len(whole) >= 2
    rng = random.Random(0)
    for round in range(4):
        for file in whole:
            size = file.stat().st_size
            os.truncate(file, [0, 1, size // 2, rng.randrange(size)][round])
        done = run(place)
        assert (done.returncode, done.stdout) == (0, "5.0 0\n"), done.stderr
        assert "Traceback" not in done.stderr
        damaged = [line for line in done.stderr.splitlines() if "is damaged" in line]
        assert damaged
        assert all(line.startswith("kernels: ") and str(place / "cache") in line for line in damaged)
        again = run(place)
        assert (again.stdout, again.stderr) == ("5.0 1\n", ""), "what was made anew is whole"


def test_what_a_changed_source_beside_it_had_a_part_in_is_compiled_again(place):
    """Compiled code holds a copy of what it calls, so that of another file is not its own business alone."""
    (place / "program.py").write_text(PROGRAM.replace("@inner\ndef half(x):\n    return x / 2\n",
                                                      "from beside import half\n"))
    beside = "from kernels import compiled\n@compiled.part()\ndef half(x):\n    return x / 2\n"
    (place / "beside.py").write_text(beside)
    assert [run(place).stdout, run(place).stdout] == ["5.0 0\n", "5.0 1\n"]
    (place / "beside.py").write_text(beside.replace("x / 2", "x / 4"))
    assert run(place).stdout == "2.5 0\n"


def test_a_file_that_names_what_is_no_longer_there_is_made_anew(place):
    run(place)
    for file in files(place):
        if file.suffix == ".nbc":
            file.write_bytes(b"cno.such.module\nThing\n.")  # a pickle of a class that nobody has
    done = run(place)
    assert (done.returncode, done.stdout) == (0, "5.0 0\n")
    assert "ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_no_other_place_it_is_kept_with_temporary_files(place):
    """As if neither the sources' folder nor the user's cache could be written to: the other places find nothing."""
    (place / "program.py").write_text(ONLY + PROGRAM)
    for hits in (0, 1):
        done = run(place, TMPDIR=str(place))
        assert (done.returncode, done.stdout) == (0, f"5.0 {hits}\n"), done.stderr
        [line] = done.stderr.splitlines()
        assert line.startswith(f"kernels: compiled functions are kept in {place}/mpilayer-cache-{os.getuid()}")
    (place / f"mpilayer-cache-{os.getuid()}").chmod(0o777)  # anybody could have written there
    done = run(place, TMPDIR=str(place))
    assert (done.returncode, done.stdout) == (0, "5.0 0\n"), done.stderr
    assert "cannot be kept" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_line(place):
    """Functions of two folders, as each folder of sources has its own in the cache."""
    (place / "more").mkdir()
    (place / "more" / "other.py").write_text(PROGRAM)
    (place / "program.py").write_text(FULL + PROGRAM + "import more.other")
    done = run(place)
    assert (done.returncode, done.stdout) == (0, "5.0 0\n5.0 0\n"), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"kernels: compiled functions cannot be kept in {place / 'cache'}")
    assert "(No space left on device): the next start compiles them again | try: NUMBA_CACHE_DIR=FOLDER" in line
    assert [file for file in (place / "cache").rglob("*") if file.is_file() and ".nb" in file.name] == []


def test_an_index_that_cannot_be_read_is_not_called_damaged(place):
    run(place)
    for file in files(place):
        if file.suffix == ".nbi":
            file.unlink()
            file.mkdir()  # what raises OSError for root, too
    done = run(place)
    assert (done.returncode, done.stdout) == (0, "5.0 0\n"), done.stderr
    assert "damaged" not in done.stderr
