import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.activation.cases import CASES, Case
from kernels.activation.check import passes, passes_of
from kernels.check import normals
from kernels.cuda import row_reduction
from kernels.gpu import fetch
from tests.kernels.cuda.rooms import agree, every_way, is_caught, lacks, precisions

SMALL = [Case("vectors", (2, 9, 5, 24)), Case("several strips of several pieces", (2, 9, 1032)),
         *(case for case in CASES if case.name in ("one", "odd", "no dimension"))]
words = st.integers(0, 2**64 - 1)
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_cases(device):
    every_way(device, passes_of, SMALL)


@few
@given(st.lists(st.integers(1, 9), max_size=4).map(tuple), st.floats(0, 0.99), words, words)
def test_any_shape(device, shape, rate, seed, first):
    some = normals(seed % 99)
    for target in precisions():
        x, dy = target.rounded(some(shape)), target.rounded(some(shape))
        agree(passes(x, dy, rate, seed, first, target), least=1)


@few
@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 99))
def test_sums_over_any_number_of_rows(device, monkeypatch, rows, K, seed):
    monkeypatch.setattr(row_reduction, "LEAST_ROWS", 1)
    some = normals(seed)
    for target in precisions():
        dy, y = target.rounded(some((rows, K))), target.rounded(some((rows, K)))
        dx, db = kernels.bias_relu_backward(target.x(dy), target.x(y))
        want = np.where(y > 0, dy, 0)
        np.testing.assert_array_equal(fetch(dx), want)
        np.testing.assert_allclose(db.get(), want.sum(0, dtype=np.float64), atol=2e-7 * np.abs(want).sum(0).max())


def test_masks_are_the_processors(device):
    x, more = normals()((3, 1001)), {"seed": 2**64 - 5, "first": 2**64 - 1000}
    y, mask = kernels.dropout(device.asarray(x), 0.3, **more)
    want, bits = kernels.dropout(x, 0.3, **more)
    np.testing.assert_array_equal(mask.get(), bits)
    np.testing.assert_array_equal(y.get(), want)


def test_every_grouping_of_an_array_gives_the_same(device):
    x = device.asarray(normals()((1, 1001))[0])
    for operation in (kernels.relu, kernels.gelu):
        whole = operation(x).get()
        for start, end in ((0, 8), (1, 9), (3, 1000)):
            np.testing.assert_array_equal(operation(x[start:end]).get(), whole[start:end])


@pytest.mark.parametrize(("operation", "inputs", "which"), [
    ("relu", 1, 0), ("relu_backward", 2, 0), ("relu_backward", 2, 1), ("gelu", 1, 0), ("gelu_backward", 2, 0),
    ("gelu_backward", 2, 1)])
def test_in_place(device, operation, inputs, which):
    for target in precisions():
        arrays = [target.x(normals(seed)((5, 401))) for seed in range(inputs)]
        want = fetch(getattr(kernels, operation)(*arrays))
        assert getattr(kernels, operation)(*arrays, out=arrays[which]) is arrays[which]
        np.testing.assert_array_equal(fetch(arrays[which]), want)


def test_a_rectifier_with_bias_and_dropout_in_place(device):
    x, y = (device.asarray(normals(seed)((5, 401))) for seed in (0, 1))
    (dx, db), (dropped, mask) = kernels.bias_relu_backward(x, y), kernels.dropout(x, 0.5, seed=3)
    back = kernels.dropout_backward(x, mask, 0.5)
    for want, work in ((dx, lambda out: kernels.bias_relu_backward(out, y, out=out, db=db)[0]),
                       (dropped, lambda out: kernels.dropout(out, 0.5, seed=3, out=(out, mask))[0]),
                       (back, lambda out: kernels.dropout_backward(out, mask, 0.5, out=out))):
        np.testing.assert_array_equal(work(x.copy()).get(), want.get())


def test_nan_and_infinity(device):
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 1e30, -1e30, np.finfo(np.float32).min], np.float32)
    there, ones = device.asarray(x), device.ones(7, np.float32)
    np.testing.assert_array_equal(kernels.relu(there).get(), kernels.relu(x))
    np.testing.assert_array_equal(kernels.relu_backward(there, ones).get(), x)
    np.testing.assert_allclose(kernels.gelu(there).get(), kernels.gelu(x), atol=1e-30)
    np.testing.assert_allclose(kernels.gelu_backward(ones, there).get(), [np.nan, 1, 0, 0.5, 1, 0, 0], atol=1e-30)
    assert np.isnan(kernels.dropout(there * np.nan, 0.5, seed=1)[0].get()).all()


def test_sums_have_the_same_bits_however_threads_are_scheduled(device):
    dy, y = (device.asarray(normals(seed)((300, 24))) for seed in (0, 1))
    want = kernels.bias_relu_backward(dy, y)[1].get()
    with device.emulator.mode(order=7):
        np.testing.assert_array_equal(kernels.bias_relu_backward(dy, y)[1].get(), want)


def test_places_and_types_do_not_mix(device):
    x = device.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="relu_backward: the arrays must all be NumPy's, or all on the GPU"):
        kernels.relu_backward(x, np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"relu_backward: y must be a non-empty float32 array, got \(2,3\) bfloat16"):
        kernels.relu_backward(x, precisions()[1].x(np.ones((2, 3), np.float32)))
    with pytest.raises(ValueError, match="relu: out must be"):
        kernels.relu(x, out=np.ones((2, 3), np.float32))


def test_the_barrier_matters(device, monkeypatch):
    lacks(monkeypatch, "activation", "        __syncthreads();")
    assert is_caught(device, lambda: agree(passes_of(SMALL[0], normals(), precisions()[0])))
