import os
import subprocess
import sys

import pytest

from mpilayer import info
from mpilayer.mpi import trials
from tests import openmpi
from tests.ranks import environment, mpiexec, on_ranks

GOOD = {"thread_level": "serialized", "oversubscribed": False, "ranks": 2, "ranks_per_node": 2, "cores_per_node": 2,
        "instruction_set": "avx512", "cpu_features": "avx avx2 fma avx512f", "gpu": "none", "kernels_compiled": True,
        "numba_cache": os.getcwd()}


@pytest.mark.parametrize("count", [1, 2])
def test_everything_is_shown_once(count):
    done = mpiexec(count, "-m", "mpilayer.info", COLUMNS="200")
    assert (done.returncode, done.stderr) == (0, "")
    for row in ("mpi  ", "mpi standard", "thread level", "ranks  ", "nodes", "ranks per node", "cores per node",
                "oversubscribed", "processor", "cpu features", "instruction set", "numba cache", "kernels compiled",
                "gpu", "KERNELS_ISA", "NUMBA_CACHE_DIR"):
        assert done.stdout.count(f"│ {row}") == 1, done.stdout
    assert ("one rank only" in done.stdout) == (count == 1)
    for row in ("sums             │ right ", "messages move", "binding", "a rank that dies │ ends the job: "):
        assert done.stdout.count(f"│ {row}") == 1, done.stdout


def test_more_ranks_than_cores():
    cores = len(os.sched_getaffinity(0))
    done = mpiexec(cores + 1, "-m", "mpilayer.info", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert f"hint: {cores + 1} ranks share {cores} cores" in done.stdout


def test_without_mpiexec():
    done = subprocess.run([sys.executable, "-m", "mpilayer.info"], capture_output=True, text=True, timeout=60,
                          env=environment(COLUMNS="200"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "hint: one rank only" in done.stdout


def test_an_unknown_instruction_set():
    done = mpiexec(2, "-m", "mpilayer.info", KERNELS_ISA="mmx")
    assert done.returncode == 2
    assert done.stderr.count("KERNELS_ISA=mmx: choose one of avx512, avx2, plain") == 1
    assert "Traceback" not in done.stderr


def test_a_number_of_threads_that_is_none():
    done = mpiexec(2, "-m", "mpilayer.train", "--steps", "1", KERNELS_NUM_THREADS="two")
    assert done.returncode == 2
    assert done.stderr.count("KERNELS_NUM_THREADS=two: expected a whole number from 1 to") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [{"MPILAYER_PATIENCE": "abc"}, {"MPILAYER_PROGRESS_US": "nan"}])
def test_a_variable_that_makes_no_sense_is_told_once(options):
    [(name, text)] = options.items()
    done = mpiexec(2, "-m", "mpilayer.info", **options)
    assert done.returncode == 2
    assert done.stderr.count(f"mpilayer: {name}={text}: expected a") == 1, done.stderr
    assert done.stderr.count(name) == 2, "in that line, and in its remedy"


def test_no_hint_where_all_is_well():
    assert list(info.hints(GOOD)) == []


@pytest.mark.parametrize(("change", "hint"), [
    ({"thread_level": "single"}, "no threads"),
    ({"oversubscribed": True, "ranks_per_node": 9}, "9 ranks share 2 cores"),
    ({"ranks": 1}, "mpiexec -n"),
    ({"instruction_set": "plain"}, "neither AVX-512 nor AVX2"),
    ({"instruction_set": "avx2"}, "unset KERNELS_ISA"),
    ({"numba_cache": "/proc/none"}, "NUMBA_CACHE_DIR"),
    ({"kernels_compiled": False}, "first start"),
    ({"gpu": "not used: cupy is not installed"}, "mpilayer[gpu]"),
])
def test_a_hint_for_whatever_is_not_well(change, hint):
    (said,) = info.hints(GOOD | change)
    assert hint in said


@on_ranks(2)
def test_sums_that_are_wrong_are_told(ranks):
    """An MPI whose large sums in place lack a rank's part."""
    right = trials._sum
    trials._sum = lambda ranks, size, in_place: right(ranks, size, in_place) and not (in_place and size > 1000)
    try:
        assert trials.sums(ranks) == "WRONG: 400012 bytes in place, 4194304 bytes in place"
    finally:
        trials._sum = right
    assert trials.sums(ranks) == "right"


@on_ranks(2)
def test_ranks_on_the_same_cores_are_told(ranks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "cores", 2)
        for cores, told in (({0}, "several ranks are bound to the same cores, as rank 0 to"),
                            ({ranks.rank}, "each rank to cores of its own"), ({0, 1}, "none: a rank may use all")):
            patch.setattr(trials.os, "sched_getaffinity", lambda process, cores=cores: cores)
            assert trials.binding(ranks).startswith(told)


def test_what_a_death_does_is_told_for_open_mpi(tmp_path):
    folder = openmpi.installed(tmp_path)
    for ulfm, text in ((True, "the others can go on: --on-failure shrink"), (False, "ends the job: ULFM of Open MPI")):
        done = openmpi.mpiexec(folder, 3, "-m", "mpilayer.info", ulfm=ulfm, COLUMNS="200")
        assert done.returncode == 0, done.stderr
        assert text in done.stdout
