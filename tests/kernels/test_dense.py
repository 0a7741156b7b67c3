import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.dense import check, ref
from kernels.dense.cases import CASES
from kernels.matmul.cpu import FEW, FEW_SUMMED, FEW_TRANSPOSED
from kernels.matmul.few_rows import SLICE, TOGETHER
from tests.kernels.oracle import BOUND, all_close, locked, numeric_gradient, random


def numbers(kind, seed):
    """A source of arrays whose sums do not cancel: small whole numbers, exact in float32, or positive fractions."""
    rng = np.random.default_rng(seed)
    if kind == "whole":
        return lambda *shape: rng.integers(-8, 9, shape).astype(np.float32)
    return lambda *shape: rng.random(shape, np.float32)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300) | st.integers(1, 20), st.integers(1, 70),
       st.sampled_from(["whole", "fractions"]), st.integers(0, 2**32))
def test_matches_the_reference(M, C, K, kind, seed):
    some = numbers(kind, seed)
    all_close(check.passes(some(M, C), some(C, K), some(K), some(M, K)))


@pytest.mark.parametrize("M", [*range(40, 46), FEW_TRANSPOSED[1] + 1, TOGETHER, TOGETHER + 1, FEW, FEW + 1, FEW_SUMMED,
                               FEW_SUMMED + 1])
@pytest.mark.parametrize(("C", "K"), [(70, 45), (1024, 33), (2 * SLICE + 1, 1024)])
def test_rows_around_those_that_another_way_begins_with(M, C, K):
    some = numbers("whole", M)
    all_close(check.passes(some(M, C), some(C, K), some(K), some(M, K)))


@pytest.mark.parametrize("C", [SLICE - 1, SLICE, SLICE + 1, 3 * SLICE])
def test_inputs_around_a_slice_of_weights(C):
    all_close(check.passes(random((3, C)), random((C, 33), 1), random(33, 2), random((3, 33), 3)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    all_close(check.passes_of(case, normals()))


def test_gradients_by_finite_differences():
    x, w, dy = (random(shape, 4).astype(np.float64) for shape in ((3, 5), (5, 4), (3, 4)))
    b = np.zeros(4)
    dx = numeric_gradient(lambda x: ref.dense(x, w, b), x, dy)
    dw = numeric_gradient(lambda w: ref.dense(x, w, b), w, dy)
    db = numeric_gradient(lambda b: ref.dense(x, w, b), b, dy)
    np.testing.assert_allclose(ref.dense_dgrad(dy, w), dx, atol=1e-8)
    np.testing.assert_allclose(ref.dense_wgrad(x, dy), dw, atol=1e-8)
    x, w, dy = (array.astype(np.float32) for array in (x, w, dy))
    for got, want in ((kernels.dense_dgrad(dy, w), dx), (kernels.dense_wgrad(x, dy), dw), (kernels.bias_grad(dy), db)):
        np.testing.assert_allclose(got, want, rtol=0, atol=BOUND * np.abs(want).max())


def test_nan_passes_through_relu_in_its_sample_only():
    for C in (7, 2 * SLICE + 1):
        x, w = random((16, C)), random((C, 37), 1)
        x[15, C - 1] = np.nan
        y = kernels.dense(x, w, relu=True)
        assert np.isnan(y[15]).all()
        assert np.isfinite(y[:15]).all()
        assert (y[:15] >= 0).all()


def test_out_is_written_and_returned():
    x, w, dy = random((5, 7)), random((7, 9), 1), random((5, 9), 2)
    for function, arrays, shape in ((kernels.dense, (x, w), (5, 9)), (kernels.dense_dgrad, (dy, w), (5, 7)),
                                    (kernels.dense_wgrad, (x, dy), (7, 9)), (kernels.bias_grad, (dy,), (9,))):
        out = np.full(shape, np.nan, np.float32)
        assert function(*arrays, out=out) is out
        np.testing.assert_array_equal(out, function(*arrays))


@pytest.mark.parametrize("view", [lambda a: np.asfortranarray(a), lambda a: np.repeat(a, 2, -1)[..., ::2], locked])
def test_views_and_read_only_arrays_give_the_same(view):
    x, w, b, dy = random((5, 7)), random((7, 9), 1), random(9, 3), random((5, 9), 2)
    for function, arrays in ((kernels.dense, (x, w, b)), (kernels.dense_dgrad, (dy, w)),
                             (kernels.dense_wgrad, (x, dy)), (kernels.bias_grad, (dy,))):
        np.testing.assert_array_equal(function(*map(view, arrays)), function(*arrays))


X, W, B, DY = random((2, 3)), random((3, 4)), random(4), random((2, 4))


@pytest.mark.parametrize(("operation", "arrays", "message"), [
    ("dense", (X.astype(np.float64), W), r"x must be \(M,C\) float32( or bfloat16)?, got \(2,3\) float64"),
    ("dense", (X, W.astype(int)), r"w must be \(C,K\) float32( or bfloat16)?, got \(3,4\) int64"),
    ("dense", (X[0], W), r"x must be \(M,C\) float32( or bfloat16)?, got \(3\)"),
    ("dense", ([[1.0]], W), "x must be .*got list"),
    ("dense", (X[:0], W), r"x \(0,3\) is empty"),
    ("dense", (X, W[:2]), r"x \(2,3\) and w \(2,4\) must agree in C"),
    ("dense", (X, W, B[:3]), "b must have K=4 values, has 3"),
    ("dense", (X, W, B[:0]), r"b \(0\) is empty"),
    ("dense", (X, W, DY), r"b must be \(K\) float32( or bfloat16)?, got \(2,4\)"),
    ("dense_dgrad", (DY[:, :3], W), r"dy \(2,3\) and w \(3,4\) must agree in K"),
    ("dense_dgrad", (DY.astype(np.float16), W), r"dy must be \(M,K\) float32( or bfloat16)?, got \(2,4\) float16"),
    ("dense_wgrad", (X, DY[:1]), r"x \(2,3\) and dy \(1,4\) must agree in M"),
    ("dense_wgrad", (X, None), r"dy must be \(M,K\) float32( or bfloat16)?, got NoneType"),
    ("bias_grad", (B,), r"dy must be \(N,K\) float32( or bfloat16)?, got \(4\)"),
    ("bias_grad", (DY[:, :0],), r"dy \(2,0\) is empty"),
])
def test_errors_name_the_operation_and_the_shapes(operation, arrays, message):
    with pytest.raises(ValueError, match=f"^{operation}: .*{message}"):
        getattr(kernels, operation)(*arrays)


@pytest.mark.parametrize("out", [np.empty((4, 2), np.float32), np.empty((2, 4)), np.empty((4, 2), np.float32).T,
                                 locked(DY), [0] * 4])
def test_an_output_that_does_not_fit_is_refused(out):
    message = r"^dense: out must be a writeable, C-contiguous float32 array of shape \(2, 4\)"
    with pytest.raises(ValueError, match=message):
        kernels.dense(X, W, out=out)
