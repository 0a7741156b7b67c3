import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels.attention import cpu, ref
from kernels.attention.cases import CASES
from kernels.attention.check import passes, passes_of
from kernels.check import normals
from tests.kernels.oracle import all_close, all_near, close, numeric_gradient, random


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    all_close(passes_of(case, normals()))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.integers(1, 300), st.integers(1, 3), st.integers(1, 70), st.integers(0, 2**32))
def test_any_shape(N, T, heads, D, seed):
    some = np.random.default_rng(seed).standard_normal
    all_near(passes(some((N, T, 3 * heads * D), np.float32), some((N, T, heads * D), np.float32), heads), bound=5e-6)


def test_gradient_by_finite_differences():
    qkv, dy = random((1, 5, 12)).astype(np.float64), random((1, 5, 4), 1)
    close(np.float32(ref.attention_backward(dy, qkv, 2)),
          numeric_gradient(lambda qkv: ref.attention(qkv, 2)[0], qkv, dy))


def test_nobody_sees_the_future():
    qkv = random((1, 200, 3 * 8))
    y, _ = kernels.attention(qkv, 2)
    changed = qkv.copy()
    changed[0, 150:] = 7
    np.testing.assert_array_equal(kernels.attention(changed, 2)[0][0, :150], y[0, :150])
    dqkv = kernels.attention_backward(np.where(np.arange(200)[None, :, None] < 150, y, np.float32(0)), qkv,
                                      *kernels.attention(qkv, 2))
    assert not dqkv[0, 150:].any()
    assert dqkv[0, 149].any()


def test_large_scores_do_not_overflow():
    """The keys that matter come late, so that every block of keys raises the maximum."""
    T = 3 * cpu.KEYS
    qkv = random((1, T, 3 * 8))
    qkv[..., 8:16] *= np.linspace(1, 200, T, dtype=np.float32)[:, None]
    found = passes(qkv, random((1, T, 8)), 1)
    all_close(found, bound=1e-4)  # scores of hundreds are rounded to 1e-5 of e's exponent


def test_no_scores_of_all_pairs_are_kept():
    import tracemalloc

    qkv = random((1, 4096, 3 * 16))
    y, lse = kernels.attention(qkv, 1)
    tracemalloc.start()
    kernels.attention(qkv, 1, out=(y, lse))
    kernels.attention_backward(y, qkv, y, lse)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4096 * 4096 * 4 / 20


QKV, Y, LSE = random((2, 3, 12)), random((2, 3, 4)), random((2, 2, 3))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: kernels.attention(Y[0], 1), r"qkv must be \(N,T,3C\) float32( or bfloat16)?, got \(3,4\)"),
    (lambda: kernels.attention(QKV, 3), r"3 \* heads a divisor of the channels: qkv \(2,3,12\), heads 3"),
    (lambda: kernels.attention(QKV, 0), "heads must be a positive int"),
    (lambda: kernels.attention_backward(Y[:1], QKV, Y, LSE), "must agree"),
    (lambda: kernels.attention_backward(Y, QKV, Y, LSE, out=QKV), "out must not overlap"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
