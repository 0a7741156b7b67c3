import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.update.cases import CASES
from kernels.update.check import RATES, STEPS, passes
from tests.kernels.oracle import all_close


def arrays(size, seed=0):
    """w, g and v."""
    return np.random.default_rng(seed).standard_normal((3, size), np.float32)


def update(w, g, v):
    kernels.momentum_update(w, g, v, **RATES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_over_several_steps(case):
    w, g, v = arrays(min(case.size, 1 << 20))
    for _, got, want in passes(w, g, v, np.float32):
        np.testing.assert_array_equal(got, want)  # every rounding is NumPy's
    all_close(passes(w, g, v))


def test_defaults_are_plain_gradient_descent():
    w, g, v = arrays(100)
    before = w.copy()
    assert kernels.momentum_update(w, g, v, lr=0.5) is None
    np.testing.assert_array_equal(v, np.float32(0.5) * g)
    np.testing.assert_array_equal(w, before - v)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.lists(st.integers(0, 300)), st.integers(0, 3), st.integers(0, 2**32))
def test_any_pieces_give_the_same_bits_as_the_whole(size, cuts, shift, seed):
    whole = arrays(size, seed)
    pieces = np.empty((3, size + shift), np.float32)[:, shift:]
    pieces[:] = whole
    ends = sorted({*(cut for cut in cuts if cut < size), 0, size})
    for _ in range(STEPS):
        update(*whole)
        for start, end in zip(ends, ends[1:], strict=False):
            update(*pieces[:, start:end])
    np.testing.assert_array_equal(whole.view(np.uint32), pieces.view(np.uint32))


def test_nan_and_infinity_stay_where_they_are():
    w, g, v = arrays(40)
    w[3], g[7], v[11], g[13] = np.nan, np.nan, np.nan, np.inf
    update(w, g, v)
    assert np.flatnonzero(~np.isfinite(w)).tolist() == np.flatnonzero(~np.isfinite(v)).tolist() == [3, 7, 11, 13]


def locked(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def test_a_gradient_may_be_read_only():
    one, two = arrays(50), arrays(50)
    update(*one)
    update(two[0], locked(two[1]), two[2])
    np.testing.assert_array_equal(one, two)


A = arrays(6)[0]


@pytest.mark.parametrize(("w", "g", "v", "message"), [
    (A.astype(np.float64), A, A, r"w must be \(i\) float32, got \(6\) float64"),
    (A, A.astype(np.float16), A, r"g must be \(i\) float32, got \(6\) float16"),
    (A, A, A.reshape(2, 3), r"v must be .*got \(2,3\) float32"),
    (A, list(A), A, "g must be .*got list"),
    (A[:0], A[:0], A[:0], r"w \(0\) is empty"),
    (A, A[:5], A, r"w \(6\), g \(5\) and v \(6\) must have one size"),
    (A[::2], A[:3], A[:3], "w must be contiguous"),
    (A[:3], A[::2], A[:3], "g must be contiguous"),
    (A[:3], A[:3], A[::2], "v must be contiguous"),
    (locked(A), A, A, "w must be contiguous, and w and v writeable"),
    (A, A, locked(A), "v must be contiguous, and w and v writeable"),
])
def test_errors_name_the_operation_and_the_shapes(w, g, v, message):
    before = A.copy()
    with pytest.raises(ValueError, match=f"^momentum_update: .*{message}"):
        kernels.momentum_update(w, g, v, lr=0.1)
    np.testing.assert_array_equal(A, before)
