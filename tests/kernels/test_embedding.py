import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.embedding.cases import CASES
from kernels.embedding.check import passes, passes_of
from tests.kernels.oracle import all_close, all_near, random


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    all_close(passes_of(case, normals()))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(1, 30), st.integers(1, 40), st.integers(0, 9),
       st.integers(0, 2**32))
def test_any_shape(N, T, V, C, more, seed):
    rng = np.random.default_rng(seed)
    tables = (rng.standard_normal((rows, C), np.float32) for rows in (V, T + more))
    all_near(passes(rng.integers(0, V, (N, T)), *tables, rng.standard_normal((N, T, C), np.float32)), bound=2e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64])
def test_tokens_of_any_integer_type(dtype):
    table = random((200, 3))
    tokens = np.array([[0, 199], [7, 7]])
    np.testing.assert_array_equal(kernels.embedding(tokens.astype(dtype), table), table[tokens])


def test_a_long_sum_keeps_its_precision():
    dy, dtable = np.random.default_rng(0).random((1, 60000, 2), np.float32), np.empty((3, 2), np.float32)
    kernels.embedding_backward(dy, np.ones((1, 60000), np.int64), dtable)
    np.testing.assert_allclose(dtable, [[0, 0], dy[0].sum(0, dtype=np.float64), [0, 0]], rtol=2e-6)


@pytest.mark.parametrize("tokens", [[0], [9999], [4999, 5000], [1, 3, 4000, 9998]])
@pytest.mark.parametrize("C", [1, 7, 5000])
def test_rows_of_tokens_that_do_not_occur_are_zero(tokens, C):
    """Runs of them are zeroed in one go, shorter and longer than what goes at once."""
    V = 10000 if C < 5000 else 12
    tokens = np.array([tokens]) % V
    dy, dtable = random((1, tokens.size, C)), np.full((V, C), np.nan, np.float32)
    kernels.embedding_backward(dy, tokens, dtable)
    want = np.zeros_like(dtable)
    np.add.at(want, tokens, dy)
    np.testing.assert_allclose(dtable, want, rtol=1e-6, atol=1e-6)


X, TABLE, TOKENS = random((2, 3, 4)), random((5, 4)), np.zeros((2, 3), np.int64)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kernels.embedding(TOKENS.astype(float), TABLE), r"tokens must be \(N,T\) integers, got \(2,3\) float64"),
    (lambda: kernels.embedding(TOKENS + 5, TABLE), r"tokens\[0,0\] = 5 is not in a vocabulary of 5"),
    (lambda: kernels.embedding(TOKENS - [0, 0, 1], TABLE), r"tokens\[0,2\] = -1 is not in a vocabulary of 5"),
    (lambda: kernels.embedding(TOKENS, TABLE, TABLE[:2]), r"positions \(2,4\) must have a row for each of 3 places"),
    (lambda: kernels.embedding_backward(X, TOKENS[:1], TABLE.copy()), r"dy \(2,3,4\) and tokens \(1,3\) must agree"),
    (lambda: kernels.embedding_backward(X, TOKENS, TABLE[:, :3].copy()), "out must be a writeable"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
