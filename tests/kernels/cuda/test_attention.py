"""Attention on the emulated GPU, in all three precisions."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels import check, gpu
from kernels.attention.cases import Case
from kernels.attention.check import passes, passes_of
from kernels.gpu import fetch
from tests.kernels.cuda.rooms import MODES, is_caught, lacks

SMALL = [Case("odd", "whole", 2, 70, 2, 16), Case("odd", "odd", 1, 37, 3, 5), Case("odd", "one token", 3, 1, 2, 4),
         Case("odd", "wide", 1, 70, 1, 80), Case("odd", "wide, odd", 1, 33, 2, 67), Case("odd", "long", 1, 700, 1, 8)]
# Probabilities and what becomes of them are rounded to bfloat16 before they are multiplied, as results are after.
BOUNDS = {"float32": (2e-6, 2e-6, 5e-6), "tf32": (1e-3, 1e-3, 1e-3), "bfloat16": (4e-3, 2e-6, 8e-3)}


class Precision:
    """The GPU in one of its precisions."""

    def __init__(self, precision):
        self.bounds = dict(zip(("attention", "lse", "attention_backward"), BOUNDS[precision], strict=True))
        self.target = check.cuda(precision).target

    def numbers(self, seed=0):
        """A source of arrays of normal numbers that the precision can hold."""
        draw = check.normals(seed)
        return lambda shape: self.target.rounded(draw(shape))

    def agree(self, found, times=1, least=0):
        """Every (pass, result, reference), relative to the largest value, or `least` if that is more."""
        for part, got, want in found:
            off = np.abs(fetch(got) - want).max()
            largest = max(least, np.abs(want).max())
            assert off <= times * self.bounds[part] * largest, f"{part}: {off:.1e} of {largest:.1e}"


@pytest.fixture(params=BOUNDS)
def backend(request, device):
    yield Precision(request.param)
    gpu.set_precision("float32")


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_cases(case, backend, device):
    with device.emulator.mode(**MODES[SMALL.index(case) % len(MODES)]):
        backend.agree(passes_of(case, backend.numbers(), backend.target))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 2), st.integers(1, 140), st.integers(1, 3), st.sampled_from([1, 2, 7, 12, 16, 66, 72, 80]),
       st.integers(0, 99), st.sampled_from(MODES), st.sampled_from([1, 132]))
def test_any_shape(backend, device, N, T, heads, D, seed, mode, processors):
    some = backend.numbers(seed)
    with pytest.MonkeyPatch.context() as patch, device.emulator.mode(**mode):
        patch.setattr(gpu, "multiprocessors", lambda: processors)  # few: blocks of 128 queries
        found = passes(some((N, T, 3 * heads * D)), some((N, T, heads * D)), heads, backend.target)
        backend.agree(found, times=2, least=1)


def test_the_same_bits_however_threads_are_scheduled(backend, device):
    qkv, dy = (backend.target.x(check.normals()(shape)) for shape in ((1, 150, 96), (1, 150, 32)))

    def all_results():
        y, lse = kernels.attention(qkv, 2)
        return [fetch(array) for array in (y, lse, kernels.attention_backward(dy, qkv, y, lse))]

    first, *others = [_in(device, mode, all_results) for mode in MODES]
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


def _in(device, mode, work):
    with device.emulator.mode(**mode):
        return work()


def test_nobody_sees_the_future(backend):
    qkv = backend.numbers()((1, 150, 3 * 8))
    changed = qkv.copy()
    changed[0, 100:] = 7
    (y, lse), (other, _) = (kernels.attention(backend.target.x(a), 2) for a in (qkv, changed))
    np.testing.assert_array_equal(fetch(other)[0, :100], fetch(y)[0, :100])
    dy = backend.target.x(np.where(np.arange(150)[None, :, None] < 100, fetch(y), np.float32(0)))
    dqkv = fetch(kernels.attention_backward(dy, backend.target.x(qkv), y, lse))
    assert not dqkv[0, 100:].any()
    assert dqkv[0, 99].any()


def test_large_scores_do_not_overflow(device):
    """The keys that matter come late, so that every block of keys raises the maximum."""
    backend, qkv = Precision("float32"), check.normals()((1, 300, 3 * 8))
    qkv[..., 8:16] *= np.linspace(1, 200, 300, dtype=np.float32)[:, None]
    backend.agree(passes(qkv, check.normals(1)((1, 300, 8)), 1, backend.target), times=50)


def test_addresses_need_not_be_multiples_of_16(backend, device):
    some, dtype = backend.numbers(), backend.target.x(np.ones(1, np.float32)).dtype

    def aside(array):
        room = device.empty(array.size + 1, dtype)
        room[1:] = device.asarray(array.astype(dtype)).ravel()
        return room[1:].reshape(array.shape)

    backend.agree(passes(some((1, 40, 48)), some((1, 40, 16)), 1, backend.target._replace(x=aside)))


@pytest.mark.parametrize(("call", "message"), [
    (lambda x, y: kernels.attention(x((1, 2, 3 * 258)), 2),
     r"attention: on the GPU heads have at most 128 channels, these have 129: qkv \(1,2,774\), take 3 heads or more"),
    (lambda x, y: kernels.attention_backward(np.ones((1, 3, 4), np.float32), x((1, 3, 12)), x((1, 3, 4)), y),
     "attention_backward: the arrays must all be NumPy's, or all on the GPU"),
    (lambda x, y: kernels.attention(x((1, 3, 12)), 2, out=(np.ones((1, 3, 4), np.float32), y)),
     "attention: out must be a writeable, C-contiguous float32 array"),
    (lambda x, y: kernels.attention_backward(x((1, 3, 4)).astype(gpu.bfloat16()), x((1, 3, 12)), x((1, 3, 4)), y),
     r"attention_backward: dy must be \(N,T,C\) float32, got \(1,3,4\) bfloat16"),
])
def test_what_does_not_fit_is_refused(device, call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda shape: device.ones(shape, np.float32), device.ones((1, 2, 3), np.float32))


@pytest.mark.parametrize("statement", ["            __syncthreads();", "            cp_async_wait<0>();"])
def test_what_orders_the_copies_matters(device, monkeypatch, statement):
    lacks(monkeypatch, "attention", statement)
    backend = Precision("float32")
    assert is_caught(device, lambda: backend.agree(passes_of(SMALL[0], backend.numbers(), backend.target)))
