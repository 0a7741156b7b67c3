import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.activation import ref
from kernels.activation.cases import CASES
from kernels.activation.check import passes
from tests.kernels.oracle import BOUND, close, numeric_gradient, random

EPS = np.finfo(np.float32).eps
few = settings(max_examples=200, deadline=None)
shapes = st.lists(st.integers(1, 9), max_size=4).map(tuple)
words = st.integers(0, 2**64 - 1)


def array(value):
    return np.asarray(value, np.float32)


def check(x, rate, seed, first):
    dy = array(random(x.shape, 1))
    for part, got, want in passes(x, dy, rate, seed, first):
        rounding = {"add": EPS, "dropout": 2 * EPS, "dropout_backward": 2 * EPS}.get(part, 0)
        sums = BOUND * np.abs(dy).sum() if part == "bias_relu_backward db" else 0
        np.testing.assert_allclose(got, want, rtol=rounding, atol=sums, err_msg=part)


@few
@given(shapes, st.floats(0, 0.99), words, words)
def test_matches_the_reference(shape, rate, seed, first):
    check(array(random(shape, seed)), rate, seed, first)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    check(array(random((min(case.shape[0], 2), *case.shape[1:]) if case.shape else ())), 0.5, 7, 0)


def test_gradients_by_finite_differences():
    x = random((3, 4, 5)).astype(np.float64)
    x += np.copysign(0.01, x)  # away from the kink
    dy = random(x.shape, 1)
    dx = ref.relu_backward(dy, ref.relu(x))
    np.testing.assert_allclose(dx, numeric_gradient(ref.relu, x, dy), atol=1e-8)
    _, mask = ref.dropout(x, 0.3, 5, 0)
    numeric = numeric_gradient(lambda x: ref.dropout(x, 0.3, 5, 0)[0], x, dy)
    np.testing.assert_allclose(ref.dropout_backward(dy, mask, 0.3), numeric, atol=1e-8)


@pytest.mark.parametrize("size", [1, 5, 2048, 2049, 10000])
def test_in_place(size):
    x, dy = random(size), random(size, 1)
    y, dx = kernels.relu(x), kernels.relu_backward(dy, kernels.relu(x))
    assert kernels.relu(x, out=x) is x
    np.testing.assert_array_equal(x, y)
    assert kernels.relu_backward(dy, y, out=dy) is dy
    np.testing.assert_array_equal(dy, dx)
    assert kernels.relu_backward(dx, y, out=y) is y
    np.testing.assert_array_equal(y, dx)


@pytest.mark.parametrize("size", [1, 5, 10000])
def test_dropout_in_place(size):
    x = random(size)
    y, mask = kernels.dropout(x, 0.4, seed=3)
    dx, out = kernels.dropout_backward(x, mask, 0.4), (x.copy(), np.full(size, 9, np.uint8))
    assert all(a is b for a, b in zip(kernels.dropout(out[0], 0.4, seed=3, out=out), out, strict=True))
    np.testing.assert_array_equal(out[0], y)
    np.testing.assert_array_equal(out[1], mask)
    assert kernels.dropout_backward(x, mask, 0.4, out=x) is x
    np.testing.assert_array_equal(x, dx)


def test_relu_of_nan_and_infinity():
    x = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    np.testing.assert_array_equal(kernels.relu(x), [np.nan, np.inf, 0, 0])
    np.testing.assert_array_equal(kernels.relu_backward(x, np.ones_like(x)), x)
    np.testing.assert_array_equal(kernels.relu_backward(x, np.zeros_like(x)), 0)


def test_dropout_of_nan_is_nan_kept_or_not():
    y, mask = kernels.dropout(np.full(100, np.nan, np.float32), 0.5, seed=1)
    assert 0 < mask.sum() < 100
    assert np.isnan(y).all()
    assert np.isnan(kernels.dropout_backward(y, mask, 0.5)).all()


@few
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), words, words)
def test_the_mask_does_not_depend_on_how_a_batch_is_cut(parts, seed, first):
    x = np.ones((sum(parts), 3), np.float32)
    _, whole = kernels.dropout(x, 0.5, seed=seed, first=first)
    ends = np.cumsum(parts)
    for end, part in zip(ends, parts, strict=True):
        start = int(end) - part
        _, mask = kernels.dropout(x[start:end], 0.5, seed=seed, first=(first + 3 * start) % 2**64)
        np.testing.assert_array_equal(mask, whole[start:end])


def test_the_mixer_is_splitmix64():
    state = np.array([1234567], np.uint64) + ref.GOLDEN * np.arange(1, 4, dtype=np.uint64)
    assert ref.mix(state).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("rate", [0, 0.1, 0.5, 0.9])
def test_masks_drop_the_rate_and_are_uncorrelated(rate):
    count = 1 << 18
    x = np.ones(count, np.float32)
    kept = [kernels.dropout(x, rate, seed=seed)[1] for seed in (0, 1, int(ref.GOLDEN))]
    noise = 5 * np.sqrt(rate * (1 - rate) / count)
    both = 5 * rate * (1 - rate) / np.sqrt(count)
    for mask in kept:
        assert abs(mask.mean() - (1 - rate)) <= noise
    zero, one, shifted = (mask - (1 - rate) for mask in kept)
    for a, b in ((zero, one), (zero[1:], zero[:-1]), (zero, shifted), (zero[1:], shifted[:-1])):
        assert abs(np.mean(a * b)) <= both + 1e-12


def test_non_contiguous_input():
    x = random((4, 5, 6)).transpose(2, 0, 1)
    packed = np.ascontiguousarray(x)
    np.testing.assert_array_equal(kernels.relu(x), kernels.relu(packed))
    np.testing.assert_array_equal(kernels.relu_backward(x, x), kernels.relu_backward(packed, packed))
    for got, want in zip(kernels.dropout(x, 0.5, seed=3), kernels.dropout(packed, 0.5, seed=3), strict=True):
        np.testing.assert_array_equal(got, want)


X = random((2, 3))
MASK = np.ones((2, 3), np.uint8)


def test_bias_and_relu_in_one_pass():
    """As two passes, over several pieces of rows, in place or not."""
    dy, y = random((3, 20, 21, 33)), kernels.relu(random((3, 20, 21, 33), 1))
    want, sums = kernels.relu_backward(dy, y), np.empty(33, np.float32)
    dx, db = kernels.bias_relu_backward(dy, y, db=sums)
    assert db is sums
    np.testing.assert_array_equal(dx, want)
    close(db, want.astype(np.float64).sum((0, 1, 2)))
    again, _ = kernels.bias_relu_backward(dy, y, out=dy)
    assert again is dy
    np.testing.assert_array_equal(dy, want)


@pytest.mark.parametrize(("operation", "arguments", "options", "message"), [
    ("relu", (X.astype(np.float64),), {}, r"x must be .*float32( or bfloat16)? array, got \(2,3\) float64"),
    ("relu", (X[:0],), {}, r"x must be a non-empty .*got \(0,3\)"),
    ("relu", ([1.0],), {}, "got list"),
    ("relu", (X,), {"out": np.empty((3, 2), np.float32)}, "out must be .*shape"),
    ("bias_relu_backward", (X, X[:1]), {}, r"dy \(2,3\) and y \(1,3\) must agree"),
    ("bias_relu_backward", (np.array(1, np.float32), np.array(1, np.float32)), {}, "no last dimension"),
    ("bias_relu_backward", (X, X), {"db": X[0]}, "out must not overlap"),
    ("bias_relu_backward", (X, X), {"db": np.empty(2, np.float32)}, r"out must be .* of shape \(3,\)"),
    ("gelu", (X.astype(np.float64),), {}, "x must be .*float64"),
    ("gelu", (X,), {"out": np.empty((3, 2), np.float32)}, "out must be .*shape"),
    ("gelu_backward", (X, X[:1]), {}, r"dy \(2,3\) and x \(1,3\) must agree"),
    ("relu_backward", (X, X[:1]), {}, r"dy \(2,3\) and y \(1,3\) must agree"),
    ("relu_backward", (X, X.astype(int)), {}, "y must be .*int64"),
    ("dropout", (X, 1), {"seed": 0}, "rate must be at least 0 and less than 1, got 1"),
    ("dropout", (X, -0.1), {"seed": 0}, "rate must be"),
    ("dropout", (X, np.nan), {"seed": 0}, "rate must be"),
    ("dropout", (X, 0.5), {"seed": 2**64}, "seed must be an int"),
    ("dropout", (X, 0.5), {"seed": 0.5}, "seed must be an int"),
    ("dropout", (X, 0.5), {"seed": 0, "first": -1}, "first must be an int"),
    ("dropout", (X, 0.5), {"seed": 0, "out": X.copy()}, "out must be a pair of arrays, got ndarray"),
    ("dropout", (X, 0.5), {"seed": 0, "out": (X.copy(), X.copy())}, "out must be .*uint8 array of shape"),
    ("dropout", (X, 0.5), {"seed": 0, "out": (X.T.copy(), MASK.copy())}, "out must be .*float32 array of shape"),
    ("dropout", (X, 0.5), {"seed": 0, "out": (X.copy(), X.view(np.uint8)[:, :3].copy()[:, ::-1])}, "out must be"),
    ("dropout_backward", (X, MASK, 0.5), {"out": MASK}, "out must be"),
    ("dropout_backward", (X, MASK[:1], 0.5), {}, r"dy \(2,3\) and mask \(1,3\) must agree"),
    ("dropout_backward", (X, X, 0.5), {}, "mask must be a non-empty uint8"),
    ("dropout_backward", (X, MASK, 1.5), {}, "rate must be"),
])
def test_errors_name_the_operation_and_the_shapes(operation, arguments, options, message):
    with pytest.raises(ValueError, match=f"^{operation}: .*{message}"):
        getattr(kernels, operation)(*arguments, **options)


def test_gelu_by_finite_differences():
    x = np.linspace(-6, 6, 41)
    slope = ref.gelu_backward(np.ones_like(x), x)
    np.testing.assert_allclose(slope, numeric_gradient(ref.gelu, x, np.ones_like(x)), atol=1e-8)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6000), st.sampled_from([0.1, 1, 10, 1000]), st.integers(0, 2**32))
def test_gelu(size, scale, seed):
    x, dy = np.random.default_rng(seed).standard_normal((2, size), np.float32) * np.float32(scale)
    for got, want in ((kernels.gelu(x), ref.gelu(x.astype(np.float64))),
                      (kernels.gelu_backward(dy, x), ref.gelu_backward(dy.astype(np.float64), x.astype(np.float64)))):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * max(1, np.abs(want).max()))


def test_gelu_of_extremes():
    x = np.array([np.nan, 1e30, -1e30, 30, -30, 0], np.float32)
    np.testing.assert_allclose(kernels.gelu(x), [np.nan, 1e30, 0, 30, 0, 0], atol=1e-4)
    np.testing.assert_allclose(kernels.gelu_backward(np.ones_like(x), x), [np.nan, 1, 0, 1, 0, 0.5], atol=1e-6)


def test_gelu_of_the_largest_is_zero_or_they():
    x = np.array([np.finfo(np.float32).min, -1e36, -np.inf, np.finfo(np.float32).max, np.inf], np.float32)
    np.testing.assert_allclose(kernels.gelu(x), np.maximum(x, 0), atol=1e-30)
    np.testing.assert_allclose(kernels.gelu_backward(np.ones_like(x), x), x > 0, atol=1e-30)


def test_gelu_in_place():
    x, dy = np.random.default_rng(0).standard_normal((2, 5000), np.float32)
    y, dx = kernels.gelu(x), kernels.gelu_backward(dy, x)
    np.testing.assert_array_equal(kernels.gelu_backward(dy, x, out=dy), dx)
    np.testing.assert_array_equal(kernels.gelu(x, out=x), y)
