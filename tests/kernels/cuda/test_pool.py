import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.gpu import fetch
from kernels.pool import check
from kernels.pool.cases import CASES
from tests.kernels.cuda.rooms import agree, every_way, precisions
from tests.kernels.test_pool import pools

SMALL = [case._replace(shape=(min(2, case.shape[0]), *case.shape[1:3], min(case.shape[3], 16)))
         for case in CASES if case.shape[1] < 10]


def test_cases(device):
    every_way(device, check.passes_of, SMALL)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pools(), st.booleans(), st.integers(0, 99))
def test_any_window(device, pool, include, seed):
    shape, arguments = pool
    x = np.random.default_rng(seed).integers(-2, 2, shape).astype(np.float32)
    for target in precisions():
        def some(shape, target=target):
            return target.rounded(normals(seed)(shape))

        agree(check.max_passes(x, some, target, **arguments))
        agree(check.avg_passes(some(shape), some, target, count_include_pad=include, **arguments), bound=1e-5)


def test_nan_beats_every_number_and_the_first_of_equals_wins(device):
    x = normals()((1, 5, 5, 8))
    x[0, 2, 2, 3], x[0, 2, 2, 4], x[0, 0, 0, 3], x[..., 5] = np.nan, np.inf, np.inf, -np.inf
    for target in precisions():
        y, index = kernels.maxpool2d(target.x(x), 3, stride=1, padding=1)
        want, taps = kernels.maxpool2d(target.rounded(x), 3, stride=1, padding=1)
        np.testing.assert_array_equal(fetch(y), want)
        np.testing.assert_array_equal(fetch(index), taps)


def test_an_index_of_no_tap_is_nobodys(device):
    dx = kernels.maxpool2d_backward(device.ones((1, 2, 2, 4), np.float32), device.full((1, 2, 2, 4), 9, np.uint8),
                                    (1, 4, 4, 4), 2, stride=2)
    assert not dx.get().any()


def test_global_average(device):
    x = normals()((2, 3, 5, 8))
    y = kernels.global_avgpool(device.asarray(x))
    np.testing.assert_allclose(y.get(), x.mean((1, 2)), atol=1e-6)
    dx = kernels.global_avgpool_backward(y, x.shape)
    np.testing.assert_allclose(dx.get(), np.broadcast_to(y.get()[:, None, None] / 15, x.shape), rtol=1e-6)
