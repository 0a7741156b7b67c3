import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.update.cases import CASES
from kernels.update.check import ADAM, RATES, STEPS, adam_passes, passes
from kernels.update.cpu import BLOCK, ROW
from tests.kernels.oracle import BOUND, all_close, all_near, locked


def arrays(size, seed=0):
    """w, g and v."""
    return np.random.default_rng(seed).standard_normal((3, size), np.float32)


def update(w, g, v):
    kernels.momentum_update(w, g, v, **RATES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_over_several_steps(case):
    w, g, v = arrays(min(case.size, 1 << 20))
    for _, got, want in passes(w, g, v, np.float32):
        np.testing.assert_array_equal(got, want)  # every rounding is NumPy's
    all_close(passes(w, g, v))


def test_defaults_are_plain_gradient_descent():
    w, g, v = arrays(100)
    before = w.copy()
    assert kernels.momentum_update(w, g, v, lr=0.5) is None
    np.testing.assert_array_equal(v, np.float32(0.5) * g)
    np.testing.assert_array_equal(w, before - v)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.lists(st.integers(0, 300)), st.integers(0, 3), st.integers(0, 2**32))
def test_any_pieces_give_the_same_bits_as_the_whole(size, cuts, shift, seed):
    whole = arrays(size, seed)
    pieces = np.empty((3, size + shift), np.float32)[:, shift:]
    pieces[:] = whole
    ends = sorted({*(cut for cut in cuts if cut < size), 0, size})
    for _ in range(STEPS):
        update(*whole)
        for start, end in zip(ends, ends[1:], strict=False):
            update(*pieces[:, start:end])
    np.testing.assert_array_equal(whole.view(np.uint32), pieces.view(np.uint32))


def both_updates(w, g, v, **options):
    """What either update makes of copies of the weights."""
    found = []
    for update, more in ((kernels.momentum_update, RATES), (kernels.adamw_update, ADAM | {"step": 2})):
        new, moments = w.copy(), [v.copy() for _ in range(1 if more is RATES else 2)]
        update(new, g, *moments, **more, **options)
        found += [new, *moments]
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2 * BLOCK + 9), st.integers(0, 2**32))
def test_weights_are_rounded_and_gradients_may_be(size, seed):
    w, g, v = abs(arrays(size, seed))
    short, rounded = np.empty((2, size), np.uint16)
    kernels.encode_bfloat16(g, short)
    kernels.decode_bfloat16(short, g)
    for got, want in zip(both_updates(w, short, v, rounded=rounded), both_updates(w, g, v), strict=True):
        np.testing.assert_array_equal(got, want)
    kernels.encode_bfloat16(both_updates(w, g, v)[2], short)
    np.testing.assert_array_equal(rounded, short)  # the last update's
    assert kernels.sum_of_squares(short) == pytest.approx(np.square(both_updates(w, g, v)[2]).sum(), rel=1e-2)


def test_rounded_weights_of_another_kind_are_refused():
    w, g, v = arrays(6)
    with pytest.raises(ValueError, match=r"momentum_update: rounded must be \(i\) uint16, got \(6\) float32"):
        kernels.momentum_update(w, g, v, lr=1, rounded=w.copy())
    with pytest.raises(ValueError, match="must have one size"):
        kernels.momentum_update(w, g, v, lr=1, rounded=np.zeros(5, np.uint16))


def test_nan_and_infinity_stay_where_they_are():
    w, g, v = arrays(40)
    w[3], g[7], v[11], g[13] = np.nan, np.nan, np.nan, np.inf
    update(w, g, v)
    assert np.flatnonzero(~np.isfinite(w)).tolist() == np.flatnonzero(~np.isfinite(v)).tolist() == [3, 7, 11, 13]


def test_a_gradient_may_be_read_only():
    one, two = arrays(50), arrays(50)
    update(*one)
    update(two[0], locked(two[1]), two[2])
    np.testing.assert_array_equal(one, two)


A = arrays(6)[0]


@pytest.mark.parametrize(("w", "g", "v", "message"), [
    (A.astype(np.float64), A, A, r"w must be \(i\) float32, got \(6\) float64"),
    (A, A.astype(np.float16), A, r"g must be \(i\) float32, got \(6\) float16"),
    (A, A, A.reshape(2, 3), r"v must be .*got \(2,3\) float32"),
    (A, list(A), A, "g must be .*got list"),
    (A[:0], A[:0], A[:0], r"w \(0\) is empty"),
    (A, A[:5], A, r"w \(6\) and g \(5\) must have one size"),
    (A[::2], A[:3], A[:3], "w must be contiguous"),
    (A[:3], A[::2], A[:3], "g must be contiguous"),
    (A[:3], A[:3], A[::2], "v must be contiguous"),
    (locked(A), A, A, "w must be contiguous, and all but g writeable"),
    (A, A, locked(A), "v must be contiguous, and all but g writeable"),
])
def test_errors_name_the_operation_and_the_shapes(w, g, v, message):
    before = A.copy()
    with pytest.raises(ValueError, match=f"^momentum_update: .*{message}"):
        kernels.momentum_update(w, g, v, lr=0.1)
    np.testing.assert_array_equal(A, before)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 4), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 2**32))
def test_scaled_and_late_gradients(size, late, scale, seed):
    all_near(passes(*arrays(size, seed), scale=scale, late=late), BOUND)  # a weight may end next to zero


def test_a_late_gradient_ends_where_it_would_have_been():
    """With one gradient and none after it, D steps of momentum later both are at the same place."""
    w, g, v = arrays(100)
    late_w, v[:], rates = w.copy(), 0, {"lr": 0.1, "momentum": 0.8}
    late_v = v.copy()
    kernels.momentum_update(late_w, g, late_v, **rates, late=3)
    kernels.momentum_update(w, g, v, **rates)
    for _ in range(3):
        kernels.momentum_update(w, np.zeros_like(g), v, **rates)
    np.testing.assert_allclose(late_w, w, rtol=1e-5, atol=1e-6)


def test_one_step_late_is_nesterovs_method():
    w, g, v = arrays(100)
    want_v = 0.8 * v + 0.1 * g
    want = w - (0.8 * want_v + 0.1 * g)
    kernels.momentum_update(w, g, v, lr=0.1, momentum=0.8, late=1)
    np.testing.assert_allclose(w, want, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**32))
def test_adamw(size, seed):
    all_near(adam_passes(*arrays(size, seed)[:2]), BOUND)


def test_the_first_step_of_adam_is_the_rate_whatever_the_gradient():
    w, g, _ = arrays(100)
    before = w.copy()
    kernels.adamw_update(w, 1000 * g, *np.zeros((2, 100), np.float32), lr=0.01, step=1)
    np.testing.assert_allclose(before - w, 0.01 * np.sign(g), rtol=1e-4, atol=1e-6)


def test_pieces_of_adamw_give_the_same_bits_as_the_whole():
    w, g, m = arrays(9999)
    parts = [a.copy() for a in (w, g, m, g * g)]
    whole = [w, g, m, g * g]
    kernels.adamw_update(*whole, **ADAM, step=3)
    for piece in (slice(0, 1), slice(1, 5003), slice(5003, 9999)):
        kernels.adamw_update(*(a[piece] for a in parts), **ADAM, step=3)
    np.testing.assert_array_equal(whole, parts)


def test_sum_of_squares_does_not_lose_small_ones():
    x = np.full((3, 7777), 1e-3, np.float32)
    x[0, 0] = 1000
    assert kernels.sum_of_squares(x) == pytest.approx(np.square(x, dtype=np.float64).sum(), rel=1e-12)


def test_squares_are_added_in_one_order_on_all_processors():
    """However wide their vectors are: ranks on unlike hosts clip by the same number."""
    squares = np.square(arrays(10_000)[0], dtype=np.float64)
    sums = []
    for block in (squares[start:start + BLOCK] for start in range(0, squares.size, BLOCK)):
        totals = np.zeros(ROW)
        for row in (block[start:start + ROW] for start in range(0, block.size, ROW)):
            totals[:row.size] += row
        sums.append(sum(totals.tolist()))
    assert kernels.sum_of_squares(arrays(10_000)[0]) == sum(sums)


def test_what_adamw_and_late_steps_refuse():
    with pytest.raises(ValueError, match="adamw_update: step must be at least 1, got 0"):
        kernels.adamw_update(*arrays(4), np.zeros(4, np.float32), lr=1, step=0)
    with pytest.raises(ValueError, match="momentum_update: momentum must be less than 1, got 1"):
        kernels.momentum_update(*arrays(4), lr=1, momentum=1, late=1)


def test_a_gradient_is_moved_by_its_square_and_the_way_since():
    w, g, then = arrays(1000)
    moved = g.copy()
    kernels.compensate_delay(moved, w, then, 0.3)
    np.testing.assert_allclose(moved, g + 0.3 * g * g * (w - then), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="compensate_delay: .* one size"):
        kernels.compensate_delay(moved, w[:9].copy(), then, 0.3)
