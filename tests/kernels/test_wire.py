import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.wire import ref
from kernels.wire.cases import CASES
from kernels.wire.check import decoded, encoded, passes, summed

EVERY = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
PATTERNS = st.lists(st.integers(0, 2**32 - 1), max_size=60)


def floats(patterns):
    return np.array(patterns, np.uint32).view(np.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_equal_the_reference_exactly(case):
    rng = np.random.default_rng(0)
    size = min(case.size, 50_000)
    parts = rng.standard_normal((case.ranks, size), np.float32)
    for name, got, want in passes(parts, 1e-3 * rng.standard_normal(size, np.float32)):
        np.testing.assert_array_equal(got, want.reshape(got.shape), err_msg=name)


def test_every_bfloat16_is_read_as_what_its_bits_say_and_comes_back():
    np.testing.assert_array_equal(decoded(EVERY), ref.decode_bfloat16(EVERY))
    back, nan = encoded(decoded(EVERY)), np.isnan(decoded(EVERY))
    np.testing.assert_array_equal(back[~nan], EVERY[~nan])
    assert np.isnan(decoded(back[nan])).all()


@settings(max_examples=200, deadline=None)
@given(PATTERNS)
def test_any_float32_goes_to_the_nearest_bfloat16(patterns):
    x = floats(patterns)
    np.testing.assert_array_equal(decoded(encoded(x)), ref.decode_bfloat16(ref.encode_bfloat16(x)))


def test_overflow_infinity_nan_zeros_and_tiny_numbers_survive():
    x = floats([0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF,
                0, 0x80000000, 0x10000])
    got = decoded(encoded(x))
    np.testing.assert_array_equal(got[:4], [np.inf, -np.inf, np.inf, -np.inf])
    assert np.isnan(got[4:7]).all()
    np.testing.assert_array_equal(np.signbit(got[7:9]), [False, True])
    assert got[9] == x[9] > 0


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 1), st.integers(0, 2**32))
def test_what_rounding_loses_is_kept_and_sent_later(size, shift, seed):
    gradients = np.random.default_rng(seed).standard_normal((5, size + shift), np.float32)[:, shift:]
    error, sent = np.zeros(size + shift, np.float32)[shift:], np.zeros(size)
    for gradient in gradients:
        sent += decoded(encoded(np.ascontiguousarray(gradient), error))
    np.testing.assert_allclose(sent + error, gradients.sum(0, dtype=np.float64), atol=1e-5)


def test_nothing_is_kept_of_what_is_not_finite():
    error = np.ones(4, np.float32)
    encoded(np.array([np.nan, np.inf, -np.inf, 3.4e38], np.float32), error)
    np.testing.assert_array_equal(error, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(0, 5000), st.integers(0, 5000), st.booleans(), st.integers(0, 2**32))
def test_sums_in_rank_order_do_not_depend_on_cuts(ranks, size, cut, rounded, seed):
    parts = np.random.default_rng(seed).standard_normal((ranks, size), np.float32)
    if rounded:
        parts = encoded(parts.reshape(-1)).reshape(ranks, size)
    whole = summed(parts)
    cut = min(cut, size)
    pieces = [summed(np.ascontiguousarray(piece)) for piece in (parts[:, :cut], parts[:, cut:])]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    wide = decoded(parts.reshape(-1)).reshape(ranks, size) if rounded else parts
    want = ref.ordered_sum(wide)
    np.testing.assert_array_equal(whole, ref.encode_bfloat16(want) if rounded else want)


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("size", [1, 2047, 2048, 5001])
def test_the_c_function_sums_rows_a_stride_apart(dtype, size):
    rows = np.random.default_rng(size).standard_normal((3, size + 5), np.float32)
    rows = rows if dtype == np.float32 else encoded(rows.reshape(-1)).reshape(rows.shape)
    out, want, beyond = np.empty(size, dtype), summed(np.ascontiguousarray(rows[:, :size])), rows[:, size:].copy()
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(kernels.ordered_sum_address(dtype))
    function(rows.ctypes.data, 3, size, rows.strides[0], out.ctypes.data, 1)
    np.testing.assert_array_equal(out, want)
    function(rows.ctypes.data, 3, size, rows.strides[0], rows.ctypes.data, 3)  # in the place of what was added up
    np.testing.assert_array_equal(rows[:, :size], np.tile(want, (3, 1)))
    np.testing.assert_array_equal(rows[:, size:], beyond)


@pytest.mark.parametrize("size", [0, 1, 4097])
def test_the_c_operator_adds_bfloat16(size):
    rng = np.random.default_rng(1)
    x, y = (encoded(rng.standard_normal(size, np.float32)) for _ in range(2))
    want, length = summed(np.stack([x, y])), ctypes.c_int(size)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(kernels.bfloat16_op_address())
    function(x.ctypes.data, y.ctypes.data, ctypes.addressof(length), None)
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(("call", "message"), [
    (lambda f, u: kernels.encode_bfloat16(u, u), "x must be a contiguous"),
    (lambda f, u: kernels.encode_bfloat16(f, u[1:]), "out must be writeable and have 8"),
    (lambda f, u: kernels.encode_bfloat16(f, f.view(np.uint16)[:8]), "must not overlap"),
    (lambda f, u: kernels.encode_bfloat16(f, u, f[::-1]), "error must be a contiguous"),
    (lambda f, u: kernels.decode_bfloat16(f, f), "x must be a contiguous"),
    (lambda f, u: kernels.ordered_sum(f, f), "parts must be a contiguous"),
    (lambda f, u: kernels.ordered_sum_address(np.float64), "expected float32 or uint16"),
])
def test_wrong_arrays_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros(8, np.float32), np.zeros(8, np.uint16))
