import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.update.cases import CASES
from kernels.update.check import ADAM, RATES, passes_of
from tests.kernels.cuda.rooms import agree, every_way, is_caught, lacks, precisions

SMALL = [case._replace(size=min(case.size, size)) for case, size in zip(CASES, (1, 1003, 4096), strict=True)]
LATE = RATES | {"scale": 0.3, "late": 2}


def test_cases(device):
    every_way(device, passes_of, SMALL)


def updates(w, g, m, v, moved):
    """What all updates make of copies of these arrays, where those are."""
    w, m, moved = w.copy(), m.copy(), moved.copy()
    kernels.momentum_update(w, g, m, **LATE)
    kernels.compensate_delay(moved, w, g, 0.5)
    adam = [array.copy() for array in (w, m, v)]
    kernels.adamw_update(adam[0], g, *adam[1:], **ADAM, step=3, scale=0.5, late=1)
    return w, m, moved, *adam


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 1500), st.integers(0, 1500), st.integers(0, 99))
def test_any_pieces_have_the_bits_of_the_whole_and_of_the_processors(device, size, cut, seed):
    arrays = normals(seed)((5, size))
    arrays[3] *= arrays[3]
    want, ends = updates(*arrays), sorted({0, min(cut, size), size})
    pieces = [updates(*device.asarray(arrays)[:, start:end]) for start, end in zip(ends, ends[1:], strict=False)]
    for number, whole in enumerate(want):
        got = np.concatenate([piece[number].get() for piece in pieces])
        np.testing.assert_array_equal(got.view(np.uint32), whole.view(np.uint32))


@pytest.mark.parametrize("size", [1, 3, 1024])
def test_rounded_weights_and_gradients_have_the_processors_bits(device, size):
    w, g, v, *_ = normals(size)((5, size))
    short, rounded = np.zeros((2, size), np.uint16)
    kernels.encode_bfloat16(g, short)
    there = [device.asarray(array) for array in (w, short, v, rounded)]
    kernels.momentum_update(w, short, v, rounded=rounded, **LATE)
    kernels.momentum_update(*there[:3], rounded=there[3], **LATE)
    np.testing.assert_array_equal(there[3].get(), rounded)
    kernels.adamw_update(w, short, v, abs(w), rounded=rounded, step=2, **ADAM)
    kernels.adamw_update(*there[:3], abs(there[0]), rounded=there[3], step=2, **ADAM)
    np.testing.assert_array_equal(there[3].get(), rounded)
    np.testing.assert_array_equal(there[0].get(), w)
    assert kernels.sum_of_squares(there[1]) == pytest.approx(kernels.sum_of_squares(short), rel=1e-12)


@pytest.mark.parametrize("size", [1, 3, 1027, 70_000])
def test_sums_of_squares_lose_no_small_ones_and_begin_anywhere(device, size):
    x = np.full(size, 1e-3, np.float32)
    x[size // 2] = 1000
    moved = device.empty(size + 1, np.float32)[1:]
    moved[...] = device.asarray(x)
    got = kernels.sum_of_squares(device.asarray(x))
    assert type(got) is float
    assert got == kernels.sum_of_squares(moved) == pytest.approx(np.square(x, dtype=np.float64).sum(), rel=1e-12)


def test_what_is_refused(device):
    w, g, v = device.ones((3, 6), np.float32)
    with pytest.raises(ValueError, match="momentum_update: the arrays must all be NumPy's, or all on the GPU"):
        kernels.momentum_update(w, g.get(), v, lr=1)
    with pytest.raises(ValueError, match="momentum_update: v must be contiguous"):
        kernels.momentum_update(w[:3], g[:3], v[::2], lr=1)
    with pytest.raises(ValueError, match=r"momentum_update: g must be \(i\) float32, got \(6\) float64"):
        kernels.momentum_update(w, g.astype(np.float64), v, lr=1)


def test_the_barrier_matters(device, monkeypatch):
    lacks(monkeypatch, "update", "    __syncthreads();")
    assert is_caught(device, lambda: agree(passes_of(SMALL[2], normals(), precisions()[0])))
