import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels.check import normals
from kernels.embedding.cases import CASES, Case
from kernels.embedding.check import passes, passes_of
from tests.kernels.cuda.rooms import MODES, agree, every_way, is_caught, lacks, precisions

SMALL = [Case("runs over pieces", 9, 70, 8, 16, 70, 2), Case("two digits", 3, 30, 2000, 8, 40, 2000),
         *(case for case in CASES if case.name in ("one", "odd"))]


def test_cases(device):
    every_way(device, passes_of, SMALL)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 9), st.integers(1, 80), st.integers(1, 600), st.integers(1, 40), st.integers(0, 9),
       st.integers(0, 99))
def test_any_shape(device, N, T, V, C, more, seed):
    some, tokens = normals(seed), np.random.default_rng(seed).integers(0, V, (N, T))
    for target in precisions():
        agree(passes(tokens, *(target.rounded(some(shape)) for shape in ((V, C), (T + more, C), (N, T, C))), target))


def test_tokens_that_there_are_not(device):
    table, dy = normals()((5, 4)), normals(1)((1, 6, 4))
    tokens = device.asarray(np.array([[1, -1, 4, 5, 1, 99]], np.int32))
    y = kernels.embedding(tokens, device.asarray(table)).get()
    np.testing.assert_array_equal(y[0, [0, 2, 4]], table[[1, 4, 1]])
    assert np.isnan(y[0, [1, 3, 5]]).all()
    dtable = device.full((5, 4), np.nan, np.float32)
    kernels.embedding_backward(device.asarray(dy), tokens, dtable)
    want = np.zeros((5, 4), np.float32)
    want[1], want[4] = dy[0, 0] + dy[0, 4], dy[0, 2]
    np.testing.assert_array_equal(dtable.get(), want)


def test_a_long_sum_has_the_same_bits_in_any_order(device):
    dy, tokens = device.asarray(np.random.default_rng(0).random((1, 3000, 2), np.float32)), np.ones((1, 3000), int)
    tokens[0, ::7] = 0
    found = []
    for mode in MODES:
        with device.emulator.mode(**mode):
            dtable = device.empty((3, 2), np.float32)
            kernels.embedding_backward(dy, device.asarray(tokens), dtable)
            found.append(dtable.get())
    want = [dy.get()[0, tokens[0] == token].sum(0, dtype=np.float64) for token in range(3)]
    np.testing.assert_allclose(found[0], want, rtol=5e-7)
    assert all(np.array_equal(found[0], other) for other in found)


def test_a_barrier_matters(device, monkeypatch):
    lacks(monkeypatch, "embedding", "__syncthreads();\n    return place;")
    assert is_caught(device, lambda: agree(passes_of(SMALL[0], normals(), precisions()[0])))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_tokens_of_any_integer_type(dtype, device):
    table, tokens = normals()((200, 3)), np.array([[0, 199], [7, 7]])
    y = kernels.embedding(device.asarray(tokens.astype(dtype)), device.asarray(table))
    np.testing.assert_array_equal(y.get(), table[tokens])
