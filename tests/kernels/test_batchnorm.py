import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.batchnorm import ref
from kernels.batchnorm.cases import CASES
from kernels.batchnorm.check import EPS, passes, passes_of
from kernels.check import normals
from tests.kernels.oracle import all_close, all_near, close, locked, numeric_gradient, random


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    all_close(passes_of(case, normals()))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=2), st.integers(1, 70), st.integers(0, 2**32))
def test_any_shape(rows, C, seed):
    some = np.random.default_rng(seed).standard_normal
    shape = (*rows, C)
    x, add, dy = some((3, *shape), np.float32)
    x[..., 0, :] += 1  # rows that hardly differ would have gradients by x of any size
    if np.prod(rows) > 5:
        all_near(passes(x, *some((2, C), np.float32), add, dy), bound=1e-5)


def test_gradients_by_finite_differences():
    x, dy, gamma, beta = random((9, 3)).astype(np.float64), random((9, 3), 1), *random((2, 3), 2).astype(np.float64)
    mean, var = ref.statistics(x)
    dx = ref.dgrad(dy, x, mean, var, gamma, EPS)
    close(np.float32(dx), numeric_gradient(lambda x: ref.batchnorm(x, *ref.statistics(x), gamma, beta, EPS), x, dy))
    dgamma, dbeta = ref.wgrad(dy, x, mean, var, EPS)
    for got, index in ((dgamma, 0), (dbeta, 1)):
        def f(parameter, index=index):
            return ref.batchnorm(x, mean, var, *((parameter, beta) if index == 0 else (gamma, parameter)), EPS)

        close(np.float32(got), numeric_gradient(f, (gamma, beta)[index], dy))


def test_a_mean_far_from_zero_costs_no_precision():
    x = random((4000, 5)) + np.float32(1000)
    mean, var = kernels.batchnorm_statistics(x)
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var, x.var(0, dtype=np.float64), rtol=1e-5)


def test_statistics_of_parts_make_those_of_the_whole():
    """What ranks do: forward and backward of two halves with common statistics equal those of the whole."""
    x, dy, gamma, beta = random((12, 8)), random((12, 8), 1), *random((2, 8), 2)
    statistics = kernels.batchnorm_statistics(x)
    sums = kernels.batchnorm_wgrad(dy, x, *statistics)
    dx = kernels.batchnorm_dgrad(dy, x, *statistics, gamma, *sums)
    halves = slice(0, 5), slice(5, 12)
    parts = [kernels.batchnorm_wgrad(dy[half], x[half], *statistics) for half in halves]
    both = [one + other for one, other in zip(*parts, strict=True)]
    for half in halves:
        got = kernels.batchnorm_dgrad(dy[half], x[half], *statistics, gamma, *both, count=12)
        np.testing.assert_allclose(got, dx[half], rtol=1e-4, atol=1e-6)
        y = kernels.batchnorm(x, *statistics, gamma, beta)
        np.testing.assert_array_equal(kernels.batchnorm(x[half], *statistics, gamma, beta), y[half])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_are_averages_at_first_and_then_forget(dtype):
    rng = np.random.default_rng(0)
    batches, state = rng.random((12, 2, 3)).astype(dtype), np.zeros(7)
    for mean, var in batches:
        kernels.batchnorm_running(state, mean, var, count=5, momentum=0.1)
    want = np.zeros((2, 3))
    for step, batch in enumerate(batches.astype(np.float64)):
        want += max(0.1, 1 / (step + 1)) * (batch * [[1], [5 / 4]] - want)
    assert state[0] == 12
    np.testing.assert_allclose(state[1:], want.reshape(-1), rtol=1e-14)


def test_nan_goes_where_it_must():
    x = random((50, 20))
    x[7, 3] = np.nan
    mean, var = kernels.batchnorm_statistics(x)
    assert np.flatnonzero(np.isnan(mean)).tolist() == np.flatnonzero(np.isnan(var)).tolist() == [3]
    y = kernels.batchnorm(x, mean, var, *random((2, 20)), relu=True)
    assert np.isnan(y[:, 3]).all()
    assert np.isfinite(np.delete(y, 3, axis=1)).all()


X, C = random((2, 3, 4)), random(4)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kernels.batchnorm_statistics(C), r"x must be \(...,C\), got \(4\)"),
    (lambda: kernels.batchnorm_statistics(X.astype(float)), "x must be a non-empty float32 or bfloat16 array"),
    (lambda: kernels.batchnorm(X, C, C, C[:3].copy(), C), "gamma must have C=4 values, has 3"),
    (lambda: kernels.batchnorm(X, C, C, C, C, add=X[:1]), r"add \(1,3,4\) and x \(2,3,4\) must agree"),
    (lambda: kernels.batchnorm(X, C, C, C, C, out=X), "out must not overlap"),
    (lambda: kernels.batchnorm_wgrad(X.copy()[:, ::-1], X, C, C, y=X), "dy must be contiguous and writeable"),
    (lambda: kernels.batchnorm_wgrad(locked(X), X, C, C, y=X), "dy must be contiguous and writeable"),
    (lambda: kernels.batchnorm_dgrad(X, X, C, C, C, C, C, count=5), "count must be at least x's 6 rows, got 5"),
    (lambda: kernels.batchnorm_running(np.zeros(8), C, C, count=2, momentum=0.1), r"out must be .* shape \(9,\)"),
    (lambda: kernels.batchnorm_running(np.zeros(9), C, C.astype(float), count=2, momentum=0.1), "var must be"),
    (lambda: kernels.batchnorm_running(np.zeros(9), C, C, count=0, momentum=0.1), "count must be at least 1, got 0"),
    (lambda: kernels.batchnorm_dgrad(X[:1], X, C, C, C, C, C), r"dy \(1,3,4\) and x \(2,3,4\) must agree"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
