import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.batchnorm import ref
from kernels.batchnorm.cases import CASES, Case
from kernels.batchnorm.check import passes, passes_of
from kernels.check import normals
from kernels.gpu import fetch
from tests.kernels.cuda.rooms import agree, every_way, is_caught, lacks, precisions

SMALL = [Case("vectors", (2, 7, 5, 64)), Case("tiles", (1, 3, 3, 264), add=True),
         *(case for case in CASES if case.name in ("odd channels", "one row", "one channel"))]


def test_cases(device):
    every_way(device, passes_of, SMALL)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(6, 150), st.integers(1, 70), st.integers(0, 99))
def test_any_shape(device, rows, C, seed):
    some = normals(seed)
    for target in precisions():
        x, add, dy, gamma, beta = (some(shape) for shape in ((rows, C),) * 3 + ((C,),) * 2)
        x[0] += 1  # rows that hardly differ would have gradients by x of any size
        x, add, dy = map(target.rounded, (x, add, dy))
        agree(passes(x, gamma, beta, add, dy, target), bound=1e-5, least=1)


def test_a_mean_far_from_zero_costs_no_precision(device):
    x = normals()((2000, 5)) + np.float32(1000)
    mean, var = kernels.batchnorm_statistics(device.asarray(x))
    np.testing.assert_allclose(mean.get(), x.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(var.get(), x.var(0, dtype=np.float64), rtol=1e-5)


def test_nan_goes_where_it_must(device):
    x = normals()((50, 20))
    x[7, 3] = np.nan
    x = device.asarray(x)
    mean, var = kernels.batchnorm_statistics(x)
    assert np.flatnonzero(np.isnan(mean.get())).tolist() == np.flatnonzero(np.isnan(var.get())).tolist() == [3]
    y = kernels.batchnorm(x, mean, var, *device.ones((2, 20), np.float32), relu=True).get()
    assert np.isnan(y[:, 3]).all()
    assert np.isfinite(np.delete(y, 3, axis=1)).all()


def test_running_statistics_of_several_ranks_are_float64(device):
    mean, var = np.random.default_rng(0).random((2, 7))
    state = np.random.default_rng(1).random(15)
    got = device.asarray(state)
    kernels.batchnorm_running(got, device.asarray(mean), device.asarray(var), count=9, momentum=0.1)
    np.testing.assert_allclose(got.get(), ref.running(state, mean, var, 9, 0.1), rtol=1e-14)


def test_arrays_that_begin_anywhere(device):
    """A part of a larger array may not be fit for vectors."""
    x = normals()((9, 8))
    moved = device.empty(73, np.float32)[1:].reshape(9, 8)
    moved[...] = device.asarray(x)
    statistics = kernels.batchnorm_statistics(device.asarray(x))
    for got, want in zip(kernels.batchnorm_statistics(moved), statistics, strict=True):
        np.testing.assert_allclose(fetch(got), fetch(want), rtol=1e-6)


def test_counts_may_be_numpys(device):
    x, C = device.asarray(normals()((9, 8))), device.ones((5, 8), np.float32)
    got, want = (kernels.batchnorm_dgrad(x, x, *C, count=kind(30)).get() for kind in (np.int64, int))
    np.testing.assert_array_equal(got, want)


def test_places_do_not_mix(device):
    with pytest.raises(ValueError, match="batchnorm: the arrays must all be NumPy's, or all on the GPU"):
        kernels.batchnorm(device.ones((2, 3), np.float32), *np.ones((4, 3), np.float32))


@pytest.mark.parametrize("barrier", [2, 3])
def test_barriers_matter(barrier, device, monkeypatch):
    lacks(monkeypatch, "batchnorm", "    __syncthreads();", barrier)
    assert is_caught(device, lambda: agree(passes_of(SMALL[0], normals(), precisions()[0])))
