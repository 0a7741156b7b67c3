import re
import subprocess
import sys

import numpy as np
import pytest
from numba import njit

from kernels import micro, vectors
from kernels.micro import ACCUMULATE, RELU
from tests.ranks import TOP, environment

EPS = np.finfo(np.float32).eps
FLOAT = 4
FEATURES = {"avx512": {"avx512f"}, "avx2": {"avx2", "fma"}, "plain": set()}  # what a processor must have
# Rooms that use tiles: they take long to compile for another set.
USERS = {"avx512": ("conv2d", "winograd", "dense"), "avx2": ("conv2d",), "plain": ("dense",)}


@njit
def call(address, arguments):
    vectors.call(address, arguments)


def multiply(a, b, c, mode=0, bias=None, prefetch_k=0):
    """The tile on A (blocks, rows, depth) of any strides, B (blocks, depth, columns) and C (rows, columns)."""
    address = micro.tile().address
    (blocks, rows, depth), columns = a.shape, b.shape[2]
    a_offsets, b_offsets = (np.arange(blocks) * array.strides[0] for array in (a, b))
    call(address, (rows, columns, depth, a.ctypes.data, *a.strides[1:], b.ctypes.data, b.strides[1],
                   c.ctypes.data, c.strides[0], blocks, a_offsets.ctypes.data, b_offsets.ctypes.data,
                   mode, 0 if bias is None else bias.ctypes.data, b.ctypes.data, prefetch_k, prefetch_k))


def floats(rng, *shape):
    return rng.standard_normal(shape, np.float32)


def check(rng, rows, columns, mode, with_bias):
    blocks, depth = rng.integers(1, 5, 2)
    a, b = floats(rng, blocks, rows, depth), floats(rng, blocks, depth, columns + 3)[:, :, :columns]
    if rng.integers(2):
        a = a.transpose(0, 2, 1).copy().transpose(0, 2, 1)  # k runs across the rows instead of along them
    around = floats(rng, rows + 1, columns + 2)
    before, c = around.copy(), around[:rows, :columns]
    bias = floats(rng, columns) if with_bias else None
    start = before[:rows, :columns] if mode & ACCUMULATE else bias if with_bias else 0
    want = start + np.einsum("tik,tkj->ij", a, b, dtype=np.float64)
    multiply(a, b, c, mode, bias, prefetch_k=int(rng.integers(2)) * 24)
    np.testing.assert_allclose(c, np.maximum(want, 0) if mode & RELU else want, rtol=0, atol=100 * EPS)
    around[:rows, :columns] = before[:rows, :columns]
    np.testing.assert_array_equal(around, before, "wrote outside of C")


@pytest.mark.parametrize("mode", [0, RELU, ACCUMULATE, ACCUMULATE | RELU])
@pytest.mark.parametrize("with_bias", [False, True])
def test_tiles_of_every_size(mode, with_bias):
    rng = np.random.default_rng(mode)
    tallest, widest = micro.tile()[1:3]
    for rows in range(1, tallest + 1):
        for columns in range(1, widest + 1):
            check(rng, rows, columns, mode, with_bias)


def test_tiles_add_blocks_in_any_order_and_again():
    rng = np.random.default_rng(0)
    address, rows, columns, _ = micro.tile()
    a, b, c = floats(rng, 3, rows, 5), floats(rng, 3, 5, columns), np.empty((rows, columns), np.float32)
    which_a, which_b = np.array([2, 0, 2, 1]), np.array([0, 0, 1, 2])
    a_offsets, b_offsets = which_a * a.strides[0], which_b * b.strides[0]
    call(address, (rows, columns, 5, a.ctypes.data, *a.strides[1:], b.ctypes.data, b.strides[1], c.ctypes.data,
                   c.strides[0], 4, a_offsets.ctypes.data, b_offsets.ctypes.data, 0, 0, 0, 0, 0))
    want = np.einsum("tik,tkj->ij", a[which_a], b[which_b], dtype=np.float64)
    np.testing.assert_allclose(c, want, rtol=0, atol=100 * EPS)


def test_tiles_keep_nan_and_clip_infinity():
    rows, columns = micro.tile()[1:3]
    a, b = np.ones((1, rows, 1), np.float32), np.ones((1, 1, columns), np.float32)
    a[0, 0], b[0, 0, :2] = np.nan, (np.inf, -np.inf)
    for mode, lowest in ((RELU, 0), (0, -np.inf)):
        c = np.empty((rows, columns), np.float32)
        multiply(a, b, c, mode)
        assert np.isnan(c[0]).all()
        if rows > 1:
            np.testing.assert_array_equal(c[1:, :3], [[np.inf, lowest, 1]] * (rows - 1))


def best(monkeypatch, features):
    """The choice on a processor with these features."""
    monkeypatch.delenv("KERNELS_ISA", raising=False)
    monkeypatch.setattr(vectors.binding, "get_host_cpu_features", lambda: dict.fromkeys(features, True))
    return vectors.isa()


def test_the_best_instruction_set_is_chosen(monkeypatch):
    everything = set().union(*FEATURES.values())
    assert best(monkeypatch, everything) == "avx512"
    assert best(monkeypatch, everything - {"avx512f"}) == "avx2"
    assert best(monkeypatch, {"avx2"}) == best(monkeypatch, {"fma"}) == best(monkeypatch, set()) == "plain"


def test_an_unknown_instruction_set_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("KERNELS_ISA", "sse9")
    with pytest.raises(ValueError, match="KERNELS_ISA=sse9: choose one of avx512, avx2, plain"):
        vectors.isa()


@pytest.mark.parametrize("isa", vectors.ISAS)
def test_on_every_instruction_set(isa, monkeypatch):
    """Tiles, and some that are made of them, in a process that uses that set, or a lesser one if this host lacks it."""
    have = {name for name, there in vectors.binding.get_host_cpu_features().items() if there}
    if not FEATURES[isa] <= have:
        monkeypatch.delenv("KERNELS_ISA", raising=False)
        assert list(vectors.ISAS).index(vectors.isa()) > list(vectors.ISAS).index(isa)
        return
    if isa == vectors.isa():  # all other tests are of this one
        return
    files = (f"tests/kernels/test_{name}.py" for name in ("micro", *USERS[isa]))
    chosen = "test_tiles or test_transforms or test_the_environment or test_matches_the_reference"
    line = [sys.executable, "-m", "pytest", "-n", "0", *files, "-k", chosen, "-p", "no:cacheprovider"]
    done = subprocess.run(line, cwd=TOP, env=environment(KERNELS_ISA=isa), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 11 + len(USERS[isa]), done.stdout


def test_the_environment_chooses_the_tile():
    lanes, rows, across = vectors.ISAS[vectors.isa()]
    assert micro.tile()[1:3] == (rows, across * lanes)
