import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.check_target import on_gpu
from kernels.compress import check
from kernels.compress.cases import CASES, Case
from tests.kernels.cuda.rooms import MODES, agree, is_caught, lacks

SMALL = [CASES[0], CASES[1], Case("more factors", 50, 70, 6, 2)]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_cases(mode, device):
    with device.emulator.mode(**mode):
        for case in SMALL:
            agree(check.passes_of(case, normals(), on_gpu()))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3000), st.integers(0, 99), st.floats(0, 1))
def test_the_largest_are_the_cpus_bit_by_bit(device, size, seed, share):
    gradient, error = normals(seed)(size), normals(seed + 100)(size)
    gradient[seed % size::3] = 1.5
    packed = np.zeros(2 * max(1, int(share * size)), np.int32)
    there = [device.asarray(a) for a in (gradient, error, packed)]
    kernels.topk_encode(*there)
    kernels.topk_encode(gradient, error, packed)
    for got, want in zip(there, (gradient, error, packed), strict=True):
        assert got.get().tobytes() == want.tobytes()


def test_nan_and_infinity_first_of_all_and_ranks_in_their_order(device):
    packed, error = device.zeros(8, np.int32), device.zeros(7, np.float32)
    kernels.topk_encode(device.asarray(np.array([1, -1, 1, 0, np.nan, 1, -np.inf], np.float32)), error, packed)
    assert packed[:4].get().tolist() == [0, 1, 4, 6]
    packed = np.zeros((3, 4), np.int32)
    packed[:, :2], packed[:, 2:] = [1, 4], np.float32([[1, 2], [1e8, 3], [-1e8, 4]]).view(np.int32)
    packed[2, 1] = 5  # behind the end
    out = device.full(5, 7, np.float32)
    kernels.topk_decode(device.asarray(packed), out)
    assert out.get().tolist() == [0, np.float32(np.float32(1 + 1e8) - np.float32(1e8)), 0, 0, 5]


def test_ranks_may_be_numpys(device):
    gradient, error, P, Q = (device.ones(shape, np.float32) for shape in ((3, 4), (3, 4), (3, 2), (2, 4)))
    kernels.lowrank_expand(gradient, error, P, Q, np.int64(4))
    assert (error.get() == 1 + 1 - 2 / 4).all()


def test_turning_is_for_the_host(device):
    with pytest.raises(ValueError, match="lowrank_orthonormalize: the arrays must be NumPy's"):
        kernels.lowrank_orthonormalize(*(device.ones(shape, np.float32) for shape in ((3, 4), (3, 2), (2, 4))))


@pytest.mark.parametrize("barrier", [4, 7])
def test_barriers_matter(barrier, device, monkeypatch):
    lacks(monkeypatch, "compress", "    __syncthreads();", barrier)
    assert is_caught(device, lambda: agree(check.passes_of(SMALL[2], normals(), on_gpu())))
