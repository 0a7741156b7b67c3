import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import arguments
from kernels.conv2d import cpu, ref
from kernels.conv2d.cases import CASES
from tests.kernels.gradients import numeric_gradient

BOUND = 2e-6


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def close(got, want):
    """Equal up to BOUND of the largest value."""
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=BOUND * np.abs(want).max())


def normal(options):
    """The options as the reference takes them: all pairs."""
    return (arguments.pair("test", "stride", options.get("stride", 1)),
            arguments.padding("test", options.get("padding", 0)), options.get("groups", 1))


def check(some, x_shape, w_shape, **options):
    """All passes against the reference in float64; `some` makes arrays."""
    x, w, b = some(x_shape), some(w_shape), some(w_shape[3:])
    x64, w64, geometry = x.astype(np.float64), w.astype(np.float64), normal(options)
    y64 = ref.conv2d(x64, w64, None, *geometry)
    close(kernels.conv2d(x, w, **options), y64)
    close(kernels.conv2d(x, w, b, **options), y64 + b)
    close(kernels.conv2d(x, w, b, relu=True, **options), np.maximum(y64 + b, 0))
    dy = some(y64.shape)
    dy64 = dy.astype(np.float64)
    close(kernels.conv2d_dgrad(dy, w, x_shape, **options), ref.conv2d_dgrad(dy64, w64, x_shape, *geometry))
    close(kernels.conv2d_wgrad(x, dy, w_shape, **options), ref.conv2d_wgrad(x64, dy64, w_shape, *geometry))
    close(kernels.bias_grad(dy), ref.bias_grad(dy64))


def numbers(kind, seed):
    """A source of arrays whose sums do not cancel: small whole numbers, exact in float32, or positive fractions."""
    rng = np.random.default_rng(seed)
    if kind == "whole":
        return lambda shape: rng.integers(-8, 9, shape).astype(np.float32)
    return lambda shape: rng.random(shape, np.float32)


@st.composite
def convolutions(draw):
    """(x shape, w shape, options) of a convolution that has an output."""
    R, S = draw(st.tuples(*[st.integers(1, 5)] * 2))
    side = st.integers(0, 3)
    padding = draw(side | st.tuples(side, side) | st.tuples(*[st.tuples(side, side)] * 2))
    (top, bottom), (left, right) = arguments.padding("test", padding)
    H, W = (draw(st.integers(max(1, taps - pad), 12)) for taps, pad in ((R, top + bottom), (S, left + right)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    C, K = (groups * draw(st.integers(1, most // groups)) for most in (20, 70))
    stride = draw(st.integers(1, 3) | st.tuples(*[st.integers(1, 6)] * 2))
    return ((draw(st.integers(1, 3)), H, W, C), (R, S, C // groups, K),
            {"stride": stride, "padding": padding, "groups": groups})


@settings(max_examples=250, deadline=None)
@given(convolutions(), st.sampled_from(["whole", "fractions"]), st.integers(0, 2**32))
def test_matches_the_reference(convolution, kind, seed):
    x_shape, w_shape, options = convolution
    check(numbers(kind, seed), x_shape, w_shape, **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.net} {case.name}")
def test_cases(case):
    batch = 1 if case.size > 100 else 2
    x, w, y = case.shapes(batch)
    assert y == (batch, case.out, case.out, case.filters)
    check(np.random.default_rng(0).standard_normal, x, w, **case.options)
