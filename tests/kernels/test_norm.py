import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.norm import ref
from kernels.norm.cases import CASES
from kernels.norm.check import passes
from tests.kernels.oracle import numeric_gradient

EPS = np.finfo(np.float32).eps


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def check(x, size, alpha, beta, k):
    dy = random(x.shape, 1)
    (_, y, y64), (_, dx, dx64) = passes(x, dy, size, alpha, beta, k)
    np.testing.assert_allclose(y, y64, rtol=(size + 8) * EPS, atol=0)
    # The two terms may cancel, so the error is relative to them and not to dx.
    terms = np.abs(dy).max() * (1 + 2 * alpha * beta * np.square(x).max() / k)
    np.testing.assert_allclose(dx, dx64, rtol=0, atol=2 * (size + 8) * EPS * terms)


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 40)), st.sampled_from([1, 4, 5]),
       st.sampled_from([1e-4, 0.1, 2]), st.sampled_from([0.5, 0.75, 1]), st.sampled_from([1, 2]),
       st.integers(0, 2**32))
def test_matches_the_reference(shape, size, alpha, beta, k, seed):
    check(random(shape, seed), size, alpha, beta, k)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    check(random((min(case.shape[0], 2), *case.shape[1:])), case.size, case.alpha, case.beta, case.k)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_gradient_by_finite_differences(size):
    x, dy = random((1, 2, 2, 7)).astype(np.float64), random((1, 2, 2, 7), 1)
    constants = size, 0.7, 0.75, 1.5
    dx = ref.lrn_backward(dy, x, ref.lrn(x, *constants), *constants)
    np.testing.assert_allclose(dx, numeric_gradient(lambda x: ref.lrn(x, *constants), x, dy), atol=1e-7)


def test_an_even_window_reaches_further_up():
    x = np.array([1, 2, 4, 8], np.float32).reshape(1, 1, 1, 4)
    scale = 1 + np.array([1 + 4 + 16, 1 + 4 + 16 + 64, 4 + 16 + 64, 16 + 64])
    np.testing.assert_allclose(kernels.lrn(x, 4, 4, 1, 1)[0, 0, 0], x[0, 0, 0] / scale, rtol=4 * EPS)


@pytest.mark.parametrize("size", [4, 5])
def test_nan_and_infinity_spread_over_their_windows_only(size):
    for value in (np.nan, np.inf):
        x = np.ones((1, 1, 2, 40), np.float32)
        x[0, 0, 1, 20] = value
        y = kernels.lrn(x, size, 1, 0.75, 1)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(np.isnan(y), np.isnan(ref.lrn(x, size, 1 / size, 0.75, 1)))
        assert np.isnan(y[0, 0, 1, 20])
        assert np.isfinite(y[0, 0, 1, :18]).all()
        assert np.isnan(kernels.lrn_backward(x, x, y, size, 1, 0.75, 1)[0, 0, 1, 20])


@pytest.mark.parametrize("shape", [(1, 1, 2, 3), (2, 7, 5, 96), (1, 3, 3, 500)])
def test_out_is_written_and_may_be_an_input(shape):
    x, dy, constants = random(shape), random(shape, 1), (5, 0.5, 0.75, 2)
    y, out = kernels.lrn(x, *constants), np.full_like(x, np.nan)
    assert kernels.lrn(x, *constants, out=out) is out
    np.testing.assert_array_equal(out, y)
    dx = kernels.lrn_backward(dy, x, y, *constants)
    for i in range(3):
        arrays = [dy.copy(), x.copy(), y.copy()]
        assert kernels.lrn_backward(*arrays, *constants, out=arrays[i]) is arrays[i]
        np.testing.assert_allclose(arrays[i], dx, rtol=0, atol=4 * EPS * np.abs(dx).max())
    np.testing.assert_allclose(kernels.lrn(x, *constants, out=x), y, rtol=4 * EPS)


def test_non_contiguous_input():
    x = random((5, 3, 2, 4)).transpose(3, 2, 1, 0)
    y = kernels.lrn(x, 3, 1, 0.75, 1)
    packed = np.ascontiguousarray(x)
    np.testing.assert_array_equal(y, kernels.lrn(packed, 3, 1, 0.75, 1))
    np.testing.assert_array_equal(kernels.lrn_backward(x, x, y, 3, 1, 0.75, 1),
                                  kernels.lrn_backward(packed, packed, y, 3, 1, 0.75, 1))


X = random((1, 2, 3, 4))


@pytest.mark.parametrize(("operation", "arrays", "size", "message"), [
    ("lrn", (X.astype(np.float64),), 5, "x must be .*float64"),
    ("lrn", (X[0],), 5, r"x must be .*\(2,3,4\)"),
    ("lrn", (X[:0],), 5, "is empty"),
    ("lrn", (X,), 0, "size must be a positive int, got 0"),
    ("lrn", (X,), 2.5, "size must be a positive int, got 2.5"),
    ("lrn_backward", (X, X, X[..., :2]), 5, r"dy \(1,2,3,4\), x \(1,2,3,4\) and y \(1,2,3,2\) must agree"),
    ("lrn_backward", (X, X.astype(np.float64), X), 5, "x must be .*float64"),
])
def test_errors_name_the_operation_and_the_shapes(operation, arrays, size, message):
    with pytest.raises(ValueError, match=f"^{operation}: .*{message}"):
        getattr(kernels, operation)(*arrays, size, 1, 0.75, 1)


@pytest.mark.parametrize(("operation", "arrays"), [("lrn", (X,)), ("lrn_backward", (X, X, X))])
def test_an_output_that_does_not_fit_is_refused(operation, arrays):
    for out in (X[0], X.astype(np.float64), X.transpose(3, 0, 1, 2), np.broadcast_to(X, X.shape)):
        with pytest.raises(ValueError, match=rf"^{operation}: out must be .* of shape \(1, 2, 3, 4\)"):
            getattr(kernels, operation)(*arrays, 5, 1, 0.75, 1, out=out)
