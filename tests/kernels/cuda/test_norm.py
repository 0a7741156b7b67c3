import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.gpu import fetch
from kernels.norm.cases import CASES, Case
from kernels.norm.check import passes, passes_of
from tests.kernels.cuda.rooms import agree, every_way, precisions

EVERYWHERE = [Case("packs", (2, 3, 5, 16)), *(case for case in CASES if "even" in case.name)]
FLOAT = [Case("more pixels than threads", (1, 7, 30, 8)), Case("a window wider than packs", (1, 2, 1, 24), 12, 0.5),
         Case("more channels than threads", (1, 1, 2, 1028)),
         *(case for case in CASES if case.name in ("fewer channels than the window", "window of one"))]


def test_cases(device):
    every_way(device, passes_of, EVERYWHERE)


@pytest.mark.parametrize("case", FLOAT, ids=lambda case: case.name)
def test_cases_of_float32(device, case):
    agree(passes_of(case, normals(), precisions()[0]))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(*[st.integers(1, 3)] * 3, st.integers(3, 40)), st.sampled_from([1e-4, 0.1, 2]), st.integers(0, 99))
def test_any_shape(device, shape, alpha, seed):
    some = normals(seed)
    for target in precisions():
        agree(passes(*(target.rounded(some(shape)) for _ in range(2)), 5, alpha, 0.75, 1, target), bound=1e-5)


@pytest.mark.parametrize("C", [8, 7])
def test_nan_and_infinity_spread_over_their_windows_only(device, C):
    for value in (np.nan, np.inf):
        x = np.ones((1, 1, 5, C), np.float32)
        x[0, 0, 1, 1] = value
        x = device.asarray(x)
        y = kernels.lrn(x, 5, 1, 0.75, 1)
        np.testing.assert_allclose(y.get(), kernels.lrn(x.get(), 5, 1, 0.75, 1), rtol=1e-6)
        dx = kernels.lrn_backward(x, x, y, 5, 1, 0.75, 1).get()
        assert np.isnan(dx[0, 0, 1, 1])
        assert np.isfinite(np.delete(dx, 1, axis=2)).all()


def test_in_place(device):
    for target in precisions():
        arrays = [target.x(normals(seed)((2, 2, 3, 16))) for seed in range(2)]
        arrays.append(kernels.lrn(arrays[1], 5, 0.5, 0.75, 2))
        dx = fetch(kernels.lrn_backward(*arrays, 5, 0.5, 0.75, 2))
        for which in range(3):
            copies = [array.copy() for array in arrays]
            got = kernels.lrn_backward(*copies, 5, 0.5, 0.75, 2, out=copies[which])
            assert got is copies[which]
            np.testing.assert_array_equal(fetch(got), dx)
        np.testing.assert_array_equal(fetch(kernels.lrn(arrays[1], 5, 0.5, 0.75, 2, out=arrays[1])), fetch(arrays[2]))
