"""A room is found by its folder: one of ours by its name, one elsewhere by its path."""

import subprocess
import sys

import numpy as np
import pytest

from kernels import check_target, env, gpu, rooms
from tests.ranks import TOP, environment

ROOM = {
    "__init__.py": """
import numpy as np
from kernels.arguments import array, implementation

def square(x):
    x, y = array("square", "x", x), np.empty_like(x)
    implementation(__name__, "square", x).square(x.reshape(-1), y.reshape(-1))
    return y
""",
    "ref.py": """
def square(x):
    return x * x
""",
    "cpu.py": """
from numba import njit

@njit
def square(x, y):
    for i in range(x.size):
        y[i] = x[i] * x[i]
""",
    "cases.py": """
from typing import NamedTuple

class Case(NamedTuple):
    name: str
    size: int

CASES = [Case("one", 1), Case("many", 1000)]
""",
    "check.py": """
import numpy as np
from kernels.check_target import HOST, Bound
from . import ref, square

BOUND = Bound(cpu=1e-6)

def passes_of(case, some, target=HOST):
    x = some(case.size)
    yield "square", square(target.x(x)), ref.square(x.astype(np.float64))
"""}


def checked(*words):
    """`python -m kernels.check`: a CompletedProcess."""
    return subprocess.run([sys.executable, "-m", "kernels.check", *map(str, words)], cwd=TOP, env=environment(),
                          capture_output=True, text=True, timeout=60)


@pytest.fixture
def room(tmp_path):
    """A folder with the room above."""
    folder = tmp_path / "squares"
    folder.mkdir()
    for name, text in ROOM.items():
        (folder / name).write_text(text)
    return folder


def test_every_folder_of_kernels_but_the_headers_is_a_room():
    folders = {file.parent.name for file in (TOP / "kernels").glob("*/__init__.py")}
    assert set(rooms.rooms()) == folders - {"cuda"}
    assert rooms.rooms() == sorted(rooms.rooms())
    assert set(rooms.rooms(having="cuda.cu")) == set(rooms.rooms()) - {"dense"}


def test_the_example_is_checked():
    done = checked("examples/new_kernel")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, summary = done.stdout.splitlines()
    assert {line.split()[0] for line in lines[1:]} == {"new_kernel"}
    assert all(line.endswith("  ok") for line in lines[1:])
    assert f"{len(lines) - 1} of {len(lines) - 1} ok" in summary


def test_a_new_folder_is_checked_together_with_ours(room):
    done = checked("norm", room)
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[0] for line in done.stdout.splitlines()[1:-1]} == {"norm", "squares"}
    assert "squares     many                           square" in done.stdout


def test_a_wrong_kernel_fails(room):
    (room / "cpu.py").write_text(ROOM["cpu.py"].replace("x[i] * x[i]", "x[i] * x[i] + (i == 500)"))
    done = checked(room)
    assert done.returncode == 1
    assert [line.split()[1] for line in done.stdout.splitlines()[:-1] if line.endswith("FAILED")] == ["many"]
    assert "1 of 2 ok, worst: squares many square" in done.stdout


def test_what_is_no_room(tmp_path, room):
    (room / "check.py").unlink()
    for words in (tmp_path / "nothing", room):
        done = checked(words)
        assert done.returncode == 2
        assert f"no room {words}: expected one of activation, " in done.stderr
    with pytest.raises(ValueError, match="a module numpy is in use already"):
        rooms.package(str(folder_named("numpy", tmp_path)))


def folder_named(name, above):
    """An empty room."""
    (above / name).mkdir()
    for file in ("__init__.py", "check.py"):
        (above / name / file).touch()
    return above / name


def test_which_bound_holds():
    single, half = np.zeros(1, np.float32), np.zeros(1, gpu.bfloat16())
    bound = check_target.Bound(1, 2, 3, 4)
    assert [bound.of(precision, single) for precision in ("cpu", "float32", "tf32", "bfloat16")] == [1, 2, 3, 2]
    assert bound.of("bfloat16", half) == 4
    assert bound._replace(tf32=None).of("tf32", single) == 2


def test_only_the_registry_reads_the_environment():
    """So that every variable is listed there, with its meaning. (kernels.check sets one.)"""
    for file in (TOP / "kernels").rglob("*.py"):
        text = file.read_text()
        assert ("environ" in text) == (file.name == "env.py" or file.parts[-2:] == ("kernels", "check.py")), file
    assert all(variable.meaning for variable in env.VARIABLES.values())


def test_a_variable_that_is_not_set_or_empty(monkeypatch):
    monkeypatch.delenv("KERNELS_NUM_THREADS", raising=False)
    assert env.get("KERNELS_NUM_THREADS") == "1"
    monkeypatch.setenv("KERNELS_NUM_THREADS", "")
    assert env.get("KERNELS_NUM_THREADS") == "1"
    monkeypatch.setenv("KERNELS_NUM_THREADS", "3")
    assert env.get("KERNELS_NUM_THREADS") == "3"
