import ctypes

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import kernels
from kernels.compress import check, ref
from kernels.compress.cases import CASES
from tests.kernels import oracle


def numbers(size, seed=0):
    return np.random.default_rng(seed).standard_normal(size, np.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_equal_the_reference(case):
    rng = np.random.default_rng(1)
    for name, got, want in check.passes_of(case, lambda shape: rng.standard_normal(shape, np.float32)):
        oracle.close(got, want, name)


@given(st.integers(1, 3000), st.integers(0, 99), st.floats(0, 1))
def test_what_leaves_and_what_stays_is_all_there_was(size, seed, share):
    gradient, error, k = numbers(size, seed), numbers(size, seed + 100), max(1, int(share * size))
    total, packed = error + gradient, np.zeros(2 * k, np.int32)
    kernels.topk_encode(gradient, error, packed)
    indices, values = packed[:k], packed[k:].view(np.float32)
    assert (np.diff(indices) > 0).all()
    assert (error[indices] == 0).all()
    found = error.copy()
    found[indices] = values
    assert found.tobytes() == total.tobytes()
    assert np.abs(error).max() <= np.abs(values).min() * (1 + 2**-7)


def test_of_equals_the_first_ones_go_and_nan_and_infinity_first_of_all():
    gradient = np.array([1, -1, 1, 0, np.nan, 1, -np.inf], np.float32)
    packed, error = np.zeros(8, np.int32), np.zeros(7, np.float32)
    kernels.topk_encode(gradient, error, packed)
    assert packed[:4].tolist() == [0, 1, 4, 6]
    assert error.tolist() == [0, 0, 1, 0, 0, 1, 0]
    out = np.empty(7, np.float32)
    kernels.topk_decode(packed[None], out)
    np.testing.assert_array_equal(out, np.float32([1, -1, 0, 0, np.nan, 0, -np.inf]))


def test_ranks_are_added_in_their_order():
    packed = np.zeros((3, 4), np.int32)
    packed[:, :2], packed[:, 2:] = [1, 4], np.float32([[1, 2], [1e8, 3], [-1e8, 4]]).view(np.int32)
    out = np.full(5, 7, np.float32)
    kernels.topk_decode(packed, out)
    assert out.tolist() == [0, np.float32(np.float32(1 + 1e8) - np.float32(1e8)), 0, 0, 9]


def test_what_all_ranks_expand_has_the_same_bits_on_all_processors():
    """Every rounding is NumPy's: a fused multiply-add, which not all have, would leave one out."""
    rng = np.random.default_rng(0)
    P, Q = rng.standard_normal((50, 4), np.float32), rng.standard_normal((4, 70), np.float32)
    gradient, error = np.zeros((2, 50, 70), np.float32)
    kernels.lowrank_expand(gradient, error, P, Q, 2)
    wanted = np.zeros((50, 70), np.float32)
    for k in range(4):
        wanted += P[:, k:k + 1] * Q[k]
    np.testing.assert_array_equal(gradient, wanted)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_any_matrix_equals_the_reference_and_nothing_is_lost(n, m, rank, ranks, seed):
    rng = np.random.default_rng(seed)
    gradients, errors = rng.standard_normal((2, ranks, n, m), np.float32)
    Q = rng.standard_normal((rank, m), np.float32)
    arrived, left = check.factored(gradients, errors.copy(), Q)
    np.testing.assert_allclose(arrived + left.sum(0), (gradients + errors).sum(0), atol=1e-4)
    if rank < min(n, m):  # else P has columns that only rounding keeps from vanishing
        np.testing.assert_allclose(arrived, ref.lowrank(gradients, errors, Q)[0], atol=1e-3)


def test_a_matrix_of_low_rank_arrives_whole():
    rng = np.random.default_rng(3)
    matrix = (rng.standard_normal((50, 2)) @ rng.standard_normal((2, 30))).astype(np.float32)
    arrived, left = check.factored(matrix[None], np.zeros((1, 50, 30), np.float32),
                                   rng.standard_normal((3, 30), np.float32))
    np.testing.assert_allclose(arrived, matrix, atol=1e-4)
    assert np.abs(left).max() < 1e-4


def test_columns_that_vanish_are_nothing():
    P, Q = np.ones((6, 3), np.float32), np.empty((3, 4), np.float32)
    P[:, 2] = 0
    kernels.lowrank_orthonormalize(np.ones((6, 4), np.float32), P, Q)
    np.testing.assert_allclose(P[:, 0], 6**-0.5, rtol=1e-6)
    assert not P[:, 1:].any()
    assert not Q[1:].any()


def test_the_function_for_mpi_does_a_table():
    rng = np.random.default_rng(4)
    shapes = [(5, 7, 2), (30, 20, 4)]
    some = [(rng.standard_normal((n, m), np.float32), rng.standard_normal((n, r), np.float32),
             np.zeros((r, m), np.float32)) for n, m, r in shapes]
    wanted = [[a.copy() for a in group] for group in some]
    table = np.array([[M.ctypes.data, *M.shape, P.ctypes.data, Q.ctypes.data, len(Q)] for M, P, Q in some], np.int64)
    turn = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(kernels.lowrank_orthonormalize_address())
    turn(table.ctypes.data, len(table))
    for group, want in zip(some, wanted, strict=True):
        kernels.lowrank_orthonormalize(*want)
        for a, b in zip(group, want, strict=True):
            assert a.tobytes() == b.tobytes()
            assert b.any()


@pytest.mark.parametrize(("call", "message"), [
    (lambda x: kernels.topk_encode(x, x[:-1].copy(), np.zeros(2, np.int32)), "topk_encode: gradient .* one size"),
    (lambda x: kernels.topk_encode(x, x.copy(), np.zeros(3, np.int32)), "topk_encode: packed .* two words"),
    (lambda x: kernels.topk_encode(x, x.copy(), np.zeros(2 * x.size + 2, np.int32)), "topk_encode: packed"),
    (lambda x: kernels.topk_encode(x, x.astype(np.float64), np.zeros(2, np.int32)), "topk_encode: error must be"),
    (lambda x: kernels.topk_decode(np.full((1, 2), 99, np.int32), x), r"topk_decode: .* indices in 0\.\.5"),
    (lambda x: kernels.lowrank_orthonormalize(x.reshape(2, 3), x.reshape(2, 3), x.reshape(2, 3)),
     r"lowrank_orthonormalize: .*\(n,r\)"),
    (lambda x: kernels.lowrank_project(x.reshape(2, 3), x, x[:3].reshape(1, 3), x[:2].reshape(2, 1)),
     r"lowrank_project: error must be .*\(n,m\)"),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(numbers(6))
