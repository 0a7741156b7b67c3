import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.wire.cases import CASES
from kernels.wire.check import decoded, encoded, passes_of, summed
from tests.kernels.cuda.rooms import every_way

SMALL = [case._replace(size=min(case.size, size)) for case, size in zip(CASES, (1, 1003, 4096), strict=True)]
EVERY = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
few = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_cases(device):
    every_way(device, passes_of, SMALL)


def same(got, want):
    """Equal bits, but NaNs may have others."""
    np.testing.assert_array_equal(got.get(), want)


def test_every_bfloat16_there_and_back(device):
    there = device.asarray(EVERY)
    same(decoded(there), decoded(EVERY))
    back, nan = encoded(decoded(there)).get(), np.isnan(decoded(EVERY))
    np.testing.assert_array_equal(back[~nan], EVERY[~nan])
    assert np.isnan(decoded(back[nan])).all()


@few
@given(st.lists(st.integers(0, 2**32 - 1), max_size=60), st.integers(0, 3))
def test_any_float32_as_on_the_processor(device, patterns, skip):
    x = np.array([0] * skip + patterns, np.uint32).view(np.float32)
    there, error, kept = device.asarray(x)[skip:], np.full(len(patterns), 1e-3, np.float32), None
    x, kept = x[skip:], device.asarray(error)
    same(decoded(encoded(there)), decoded(encoded(x)))
    same(decoded(encoded(there, kept)), decoded(encoded(x, error)))
    same(kept, error)


@few
@given(st.integers(1, 6), st.integers(0, 700), st.booleans(), st.integers(0, 2**32))
def test_sums_in_rank_order_as_on_the_processor(device, ranks, size, rounded, seed):
    parts = np.random.default_rng(seed).standard_normal((ranks, size), np.float32)
    if rounded:
        parts = encoded(parts.reshape(-1)).reshape(ranks, size)
    same(summed(device.asarray(parts)), summed(parts))


def test_what_is_refused(device):
    f, u = device.zeros(8, np.float32), device.zeros(8, np.uint16)
    with pytest.raises(ValueError, match="encode_bfloat16: the arrays must all be NumPy's, or all on the GPU"):
        kernels.encode_bfloat16(f, u.get())
    with pytest.raises(ValueError, match="encode_bfloat16: the arrays must not overlap"):
        kernels.encode_bfloat16(f, f.view(np.uint16)[:8])
    with pytest.raises(ValueError, match="ordered_sum: parts must be a contiguous"):
        kernels.ordered_sum(f, f)
