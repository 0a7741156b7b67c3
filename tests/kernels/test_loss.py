import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from kernels.loss import cpu, ref, softmax, softmax_cross_entropy
from kernels.loss.cases import CASES
from kernels.loss.check import passes
from tests.kernels.oracle import numeric_gradient

EPS = np.finfo(np.float32).eps


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def check(logits, labels):
    (_, loss, loss64), (_, dlogits, dlogits64), (_, y, y64) = passes(logits, labels)
    # Logits less their maximum are rounded to EPS times their range, and that is what all errors start from.
    steps = 4 + np.ptp(logits, axis=1)
    assert (np.abs(loss - loss64) <= steps * EPS * (1 + loss64)).all()
    assert (np.abs(dlogits - dlogits64) <= steps[:, None] * EPS).all()
    np.testing.assert_allclose(y, y64, rtol=0, atol=steps.max() * EPS)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.integers(1, 70), st.sampled_from([0.1, 3, 100]),
       st.sampled_from([np.uint8, np.int32, np.int64, np.uint64]), st.integers(0, 2**32))
def test_matches_the_reference(n, classes, spread, dtype, seed):
    labels = np.random.default_rng(seed).integers(0, classes, n).astype(dtype)
    check(np.float32(spread) * random((n, classes), seed), labels)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    check(random((case.N, case.C)), np.arange(case.N) % case.C)


def test_exponential():
    x = np.concatenate([np.linspace(-87.33, 0, 1 << 20), -np.logspace(-44, 0, 1000)]).astype(np.float32)
    want = np.exp(x.astype(np.float64))
    assert (np.abs(exponentials(x) - want) <= 2 * np.spacing(want.astype(np.float32))).all()
    edges = np.array([0, -0.0, -87.34, -100, -1e9, -3e38, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(exponentials(edges), [1, 1, 0, 0, 0, 0, 0, np.nan])


@njit
def exponentials(x):
    y = np.empty_like(x)
    for i in range(x.size):
        y[i] = cpu.exp(x[i])
    return y


def test_gradient_by_finite_differences():
    logits, labels = random((4, 7)).astype(np.float64), np.array([0, 6, 3, 3])
    numeric = numeric_gradient(lambda x: ref.softmax_cross_entropy(x, labels)[0], logits, np.ones(4))
    np.testing.assert_allclose(ref.softmax_cross_entropy(logits, labels)[1], numeric, atol=1e-8)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0, -1e4], [-3e38, 3e38, 0], [5, -np.inf, 5]], np.float32)
    loss, dlogits = softmax_cross_entropy(logits, np.array([0, 1, 0]))
    np.testing.assert_allclose(loss, [0, 0, np.log(2)], rtol=2 * EPS)
    np.testing.assert_allclose(dlogits, [[0, 0, 0], [0, 0, 0], [-0.5, 0, 0.5]], rtol=2 * EPS)


@pytest.mark.parametrize("bad", [[np.nan, 0, 0], [0, 0, np.nan], [np.nan] * 3, [np.inf, 0, 0], [-np.inf] * 3])
def test_nan_stays_in_its_sample(bad):
    logits = np.array([[1, 2, 3], bad, [1, 2, 3]], np.float32)
    for label in range(3):
        loss, dlogits = softmax_cross_entropy(logits, np.full(3, label))
        np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
        assert np.isnan(dlogits[1]).any()
        assert np.isfinite(dlogits[[0, 2]]).all()


def test_non_contiguous_input():
    logits, labels = random((7, 4)).T, np.arange(8)[::2] % 7
    got = softmax_cross_entropy(logits, labels)
    for a, b in zip(got, softmax_cross_entropy(np.ascontiguousarray(logits), labels.copy()), strict=True):
        np.testing.assert_array_equal(a, b)


def test_out_is_written_and_returned():
    logits, labels = random((7, 40)), np.arange(7)
    out = np.full(7, np.nan, np.float32), np.full_like(logits, np.nan)
    assert all(a is b for a, b in zip(softmax_cross_entropy(logits, labels, out=out), out, strict=True))
    for got, want in zip(out, softmax_cross_entropy(logits, labels), strict=True):
        np.testing.assert_array_equal(got, want)
    assert softmax(logits, out=out[1]) is out[1]
    np.testing.assert_array_equal(out[1], softmax(logits))


X = random((3, 5))
Y = np.array([0, 4, 2])


@pytest.mark.parametrize(("logits", "labels", "message"), [
    (X.astype(np.float64), Y, r"logits must be \(N,C\) float32( or bfloat16)?, got \(3,5\) float64"),
    (X[0], Y, r"logits must be .*got \(5\)"),
    (X[:, :0], Y, "is empty"),
    (X, Y[:2], r"labels must be \(3\) integers .*\(3,5\), got \(2\) int64"),
    (X, Y.astype(np.float32), "got .* float32"),
    (X, [0, 1, 2], r"labels must be \(3\) integers .*\(3,5\), got \[0, 1, 2\] list"),
    (X, np.array([0, 5, -1]), r"labels\[1\] = 5 is not a class of logits \(3,5\)"),
    (X, np.array([0, -1, 5]), r"labels\[1\] = -1 is not"),
    (X, np.array([0, 1, 2**64 - 1], np.uint64), r"labels\[2\] = 18446744073709551615 is not"),
])
def test_errors_name_the_operation_and_the_shapes(logits, labels, message):
    with pytest.raises(ValueError, match=f"^softmax_cross_entropy: .*{message}"):
        softmax_cross_entropy(logits, labels)


@pytest.mark.parametrize(("out", "message"), [
    (X.copy(), "must be a pair of arrays, got ndarray"),
    ((np.empty(3, np.float32),), "must be a pair of arrays, got tuple"),
    ((np.empty(2, np.float32), X.copy()), r"must be .* of shape \(3,\)"),
    ((np.empty(3, np.float32), X.T), r"must be .* of shape \(3, 5\)"),
    ((np.empty(3, np.float32), X), "must not overlap"),
    ((X.reshape(-1)[:3], X.copy()), "must not overlap"),
])
def test_outputs_that_do_not_fit_are_refused(out, message):
    with pytest.raises(ValueError, match=f"^softmax_cross_entropy: out {message}"):
        softmax_cross_entropy(X, Y, out=out)


def test_softmax_does_not_write_what_it_reads():
    with pytest.raises(ValueError, match="^softmax: out must not overlap"):
        softmax(X, out=X)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(1, 50), st.sampled_from([0.0, 0.1, 0.9]), st.integers(0, 2**32))
def test_smoothed_labels(N, C, smoothing, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.standard_normal((N, C), np.float32), rng.integers(0, C, N)
    found = softmax_cross_entropy(logits, labels, smoothing=smoothing)
    for got, want in zip(found, ref.softmax_cross_entropy(logits.astype(np.float64), labels, smoothing), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_smoothing_of_one_is_refused():
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got 1"):
        softmax_cross_entropy(np.zeros((1, 2), np.float32), np.zeros(1, np.int64), smoothing=1)
