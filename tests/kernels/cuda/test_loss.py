import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.check import normals
from kernels.gpu import fetch
from kernels.loss import cuda, softmax, softmax_cross_entropy
from kernels.loss.cases import CASES, Case
from kernels.loss.check import passes, passes_of, smoothed_passes
from tests.kernels.cuda.rooms import BFLOAT16, BOUND, agree, every_way, is_caught, lacks, precisions

SMALL = [Case("some warps", 2, 1000), *CASES[2:]]


def test_cases(device):
    every_way(device, passes_of, SMALL)


def test_rows_of_many_packs_a_thread(device, monkeypatch):
    monkeypatch.setattr(cuda, "_threads", lambda C: 64)
    for target in precisions():
        agree(passes_of(Case("a vocabulary", 3, 5025), lambda shape, p=target: p.rounded(normals()(shape)), target))


@pytest.mark.parametrize(("C", "threads"), [(1, 32), (256, 32), (257, 64), (1000, 128), (8192, 1024), (50257, 1024)])
def test_threads_of_a_row(C, threads):
    assert cuda._threads(C) == threads


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 6), st.integers(1, 70), st.sampled_from([0.1, 3]), st.sampled_from([0.0, 0.3]),
       st.sampled_from([np.uint8, np.int32, np.int64, np.uint64]), st.integers(0, 99))
def test_any_shape(device, N, C, spread, smoothing, dtype, seed):
    labels = np.random.default_rng(seed).integers(0, C, N).astype(dtype)
    for target in precisions():
        logits = target.rounded(np.float32(spread) * normals(seed)((N, C)))
        for part, got, want in [*passes(logits, labels, target), *smoothed_passes(logits, labels, smoothing, target)]:
            bound = (BFLOAT16 if got.dtype.name == "bfloat16" else BOUND) * max(1, np.abs(want).max())
            np.testing.assert_allclose(fetch(got), want, rtol=0, atol=bound, err_msg=part)


def test_large_logits_do_not_overflow(device):
    logits = np.array([[1e4, 0, -1e4], [-3e38, 3e38, 0], [5, -np.inf, 5], [-np.inf, -np.inf, -3.4e38]], np.float32)
    loss, dlogits = softmax_cross_entropy(device.asarray(logits), device.asarray([0, 1, 0, 2]))
    np.testing.assert_allclose(loss.get(), [0, 0, np.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(dlogits.get(), [[0, 0, 0], [0, 0, 0], [-0.5, 0, 0.5], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("bad", [[np.nan, 0, 0], [0, 0, np.nan], [np.nan] * 3, [np.inf, 0, 0], [-np.inf] * 3])
def test_nan_stays_in_its_sample(device, bad):
    logits = device.asarray(np.array([[1, 2, 3], bad, [1, 2, 3]], np.float32))
    for label in range(3):
        loss, dlogits = (array.get() for array in softmax_cross_entropy(logits, device.full(3, label)))
        np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
        assert np.isnan(dlogits[1]).any()
        assert np.isfinite(dlogits[[0, 2]]).all()


def test_a_label_that_is_no_class_makes_its_sample_nan(device):
    for dtype, wrong in ((np.int64, 5), (np.int64, -1), (np.int64, 2**40), (np.uint64, 2**64 - 1), (np.int32, -7)):
        labels = device.asarray(np.array([4, wrong, 0], dtype))
        loss, dlogits = (array.get() for array in softmax_cross_entropy(device.ones((3, 5), np.float32), labels))
        np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
        np.testing.assert_array_equal(np.isnan(dlogits), np.array([[False], [True], [False]]).repeat(5, 1))


@pytest.mark.parametrize(("given_at", "written_at"), [(0, 1), (1, 1), (3, 3)])
def test_arrays_that_begin_anywhere(device, given_at, written_at):
    x = normals()((3, 45))
    logits, y = (device.empty(135 + at, np.float32)[at:].reshape(3, 45) for at in (given_at, written_at))
    logits[...] = device.asarray(x)
    assert softmax(logits, out=y) is y
    np.testing.assert_allclose(y.get(), softmax(x), atol=1e-6)


def test_what_is_refused(device):
    logits = device.ones((3, 5), np.float32)
    with pytest.raises(ValueError, match="softmax_cross_entropy: the arrays must all be NumPy's, or all on the GPU"):
        softmax_cross_entropy(logits, np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"labels must be \(3\) integers"):
        softmax_cross_entropy(logits, device.zeros(3, np.float32))
    with pytest.raises(ValueError, match="^softmax: out must not overlap"):
        softmax(logits, out=logits)


@pytest.mark.parametrize("barrier", [0, 1])
def test_barriers_matter(device, monkeypatch, barrier):
    lacks(monkeypatch, "loss", "    __syncthreads();", barrier)
    assert is_caught(device, lambda: agree(passes_of(SMALL[0], normals(), precisions()[0])))
