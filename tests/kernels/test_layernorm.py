import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.layernorm import ref
from kernels.layernorm.cases import CASES
from kernels.layernorm.check import EPS, passes, passes_of
from tests.kernels.oracle import all_close, all_near, close, numeric_gradient, random


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    all_close(passes_of(case, normals()))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(5, 200), st.integers(0, 2**32))
def test_any_shape(M, C, seed):
    some = np.random.default_rng(seed).standard_normal
    all_near(passes(some((M, C), np.float32), *some((2, C), np.float32), some((M, C), np.float32)), bound=5e-6)


def test_gradients_by_finite_differences():
    x, dy, gamma, beta = random((3, 7)).astype(np.float64), random((3, 7), 1), *random((2, 7), 2).astype(np.float64)
    dx, dgamma, dbeta = ref.layernorm_backward(dy, x, gamma, EPS)
    close(np.float32(dx), numeric_gradient(lambda x: ref.layernorm(x, gamma, beta, EPS)[0], x, dy))
    close(np.float32(dgamma), numeric_gradient(lambda gamma: ref.layernorm(x, gamma, beta, EPS)[0], gamma, dy))
    close(np.float32(dbeta), numeric_gradient(lambda beta: ref.layernorm(x, gamma, beta, EPS)[0], beta, dy))


def test_a_mean_far_from_zero_costs_no_precision():
    x = random((5, 300)) + np.float32(1000)
    y, _, _ = kernels.layernorm(x, np.ones(300, np.float32), np.zeros(300, np.float32))
    np.testing.assert_allclose(y, ref.layernorm(x.astype(np.float64), 1, 0, 1e-5)[0], atol=2e-4)  # x's own rounding


def test_nan_stays_in_its_row():
    x = random((4, 20))
    x[2, 5] = np.nan
    y, _, _ = kernels.layernorm(x, *random((2, 20)))
    assert np.flatnonzero(np.isnan(y).all(1)).tolist() == np.flatnonzero(np.isnan(y).any(1)).tolist() == [2]


def test_out_is_written():
    x, gamma, beta = random((6, 10)), *random((2, 10))
    y, mean, rstd = kernels.layernorm(x, gamma, beta, out=(out := np.empty_like(x)))
    assert y is out
    outs = {"out": np.empty_like(x), "dgamma": np.empty(10, np.float32), "dbeta": np.empty(10, np.float32)}
    found = kernels.layernorm_backward(x, x, mean, rstd, gamma, **outs)
    assert all(got is want for got, want in zip(found, outs.values(), strict=True))


@pytest.mark.parametrize("shape", [(5, 1), (3, 17), (300, 64)])
def test_the_gradient_may_go_into_dy(shape):
    x, dy, gamma = random(shape), random(shape, 1), random(shape[1], 2)
    _, mean, rstd = kernels.layernorm(x, gamma, gamma)
    want, into = kernels.layernorm_backward(dy, x, mean, rstd, gamma), dy.copy()
    found = kernels.layernorm_backward(into, x, mean, rstd, gamma, out=into)
    assert found[0] is into
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_one_channel_has_no_gradient():
    """It is its own mean, whatever it is."""
    x, dy = random((50, 1)), random((50, 1), 1)
    _, mean, rstd = kernels.layernorm(x, *random((2, 1)))
    np.testing.assert_array_equal(kernels.layernorm_backward(dy, x, mean, rstd, random(1))[0], 0)


X, C, TWICE = random((3, 4)), random(4), random((4, 4))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kernels.layernorm(X[0], C, C), r"x must be \(M,C\) float32( or bfloat16)?, got \(4\) float32"),
    (lambda: kernels.layernorm(X, C[:3].copy(), C), "gamma must have C=4 values, has 3"),
    (lambda: kernels.layernorm(X, C, C, out=X), "out must not overlap"),
    (lambda: kernels.layernorm_backward(X[:2], X, C, C, C), r"dy \(2,4\) and x \(3,4\) must agree"),
    (lambda: kernels.layernorm_backward(X, X, C[:3].copy(), C[:3].copy(), C, out=X), "out must not overlap"),
    (lambda: kernels.layernorm_backward(TWICE[:3], X, C[:3].copy(), C[:3].copy(), C, out=TWICE[1:]),
     "out must not overlap"),
    (lambda: kernels.layernorm_backward(X, X, C, C, C), "mean must have M=3 values, has 4"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
