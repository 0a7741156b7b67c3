import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.layernorm.cases import CASES, Case
from kernels.layernorm.check import passes, passes_of
from tests.kernels.cuda.rooms import agree, every_way, is_caught, lacks, precisions

SMALL = [Case("threads of several warps", 3, 2000), Case("half a warp", 50, 256), *(c for c in CASES if c.M < 10)]


def test_cases(device):
    every_way(device, passes_of, SMALL)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 70), st.integers(5, 300), st.integers(0, 99))
def test_any_shape(device, M, C, seed):
    some = normals(seed)
    for target in precisions():
        x, dy, gamma, beta = (target.rounded(some(shape)) for shape in ((M, C), (M, C), (C,), (C,)))
        agree(passes(x, gamma, beta, dy, target), bound=5e-6, least=1)


def test_the_gradient_may_go_into_dy(device):
    x, dy, gamma = (device.asarray(normals(seed)(shape)) for seed, shape in enumerate(((40, 17), (40, 17), (17,))))
    _, mean, rstd = kernels.layernorm(x, gamma, gamma)
    want, into = kernels.layernorm_backward(dy, x, mean, rstd, gamma), dy.copy()
    found = kernels.layernorm_backward(into, x, mean, rstd, gamma, out=into)
    assert found[0] is into
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_array_equal(got.get(), expected.get())


def test_too_many_channels_are_refused(device):
    x, C = device.ones((1, 8200), np.float32), device.ones(8200, np.float32)
    with pytest.raises(ValueError, match="layernorm: on the GPU x must have at most 8192 channels, has 8200"):
        kernels.layernorm(x, C, C)


def test_arrays_on_two_sides_are_refused(device):
    x, C = normals()((3, 4)), normals()(4)
    with pytest.raises(ValueError, match="layernorm_backward: out must be a writeable"):
        kernels.layernorm_backward(x, x, C[:3].copy(), C[:3].copy(), C, out=device.asarray(x))


@pytest.mark.parametrize("barrier", [2, 4])
def test_barriers_matter(barrier, device, monkeypatch):
    lacks(monkeypatch, "layernorm", "    __syncthreads();", barrier)
    assert is_caught(device, lambda: agree(passes_of(SMALL[0], normals(), precisions()[0])))
