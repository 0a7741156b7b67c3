import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numba import njit

import kernels
from kernels import check as check_all
from kernels import vectors
from kernels.check import normals
from kernels.check_target import HOST
from kernels.conv2d import dilated, direct, ref, winograd
from kernels.conv2d.cases import CASES
from kernels.conv2d.check import TRANSFORMED, passes, passes_of
from kernels.conv2d.check import geometry as all_pairs
from kernels.conv2d.transform import DATA, FILTER, GRADIENT, OUTPUT, WEIGHTS, linear, matrices, transform
from tests.kernels.oracle import all_close, close, random
from tests.ranks import environment, python

SIZES = [(m, r) for r, m in winograd.OUTPUTS.items()]


@pytest.mark.parametrize(("m", "r"), [*SIZES, (2, 3), (2, 5), (3, 4)])
def test_the_matrices_convolve_exactly(m, r):
    a, g, b = (np.array(matrix) for matrix in matrices(m, r))
    rng = np.random.default_rng(0)
    d, f = (np.array([int(v) for v in rng.integers(-9, 10, size)], object) for size in (m + r - 1, r))
    assert (a @ ((g @ f) * (b @ d)) == [sum(f * d[i:i + r]) for i in range(m)]).all()


@njit
def call(address, arguments):
    vectors.call(address, arguments)


@pytest.mark.parametrize(("m", "r"), SIZES)
@pytest.mark.parametrize("kind", [DATA, FILTER, OUTPUT, GRADIENT, WEIGHTS])
def test_transforms(kind, m, r):
    matrix = np.array([[float(v) for v in row] for row in linear(kind, m, r)[0]])
    (rows, taps), room = matrix.shape, 48
    for channels in (1, 7, 16, 33):
        source, bias = random((3, taps, taps, channels)), random(channels, 1)
        target = np.full((3, rows, rows, room), np.nan, np.float32)
        relu = channels % 2
        call(transform(kind, m, r), (
            3, channels, source.ctypes.data, *source.strides[1:3], source.strides[0],
            target.ctypes.data, *target.strides[1:3], target.strides[0], bias.ctypes.data, relu))
        want = np.einsum("ia,nabc,jb->nijc", matrix, source, matrix)
        if kind == OUTPUT:
            want = np.maximum(want + bias, 0) if relu else want + bias
        close(np.ascontiguousarray(target[..., :channels]), want)
        cut = kind in (OUTPUT, WEIGHTS)
        lanes = vectors.ISAS[vectors.isa()].lanes
        rest = target[..., channels:] if cut else target[..., -(-channels // lanes) * lanes:]
        assert np.isnan(rest).all(), "wrote beyond its channels"


@st.composite
def convolutions(draw):
    """(x shape, w shape, stride, padding, groups) for which transforms would win if layers were wide."""
    stride = draw(st.sampled_from([1, 1, 1, 2, 4]))
    taps = draw(st.sampled_from(list(winograd.OUTPUTS))) * stride - draw(st.integers(0, stride - 1))
    padding = draw(st.tuples(*[st.tuples(*[st.integers(0, taps - 1)] * 2)] * 2))
    H, W = (draw(st.integers(max(1, taps - sum(pad)), 20 * stride)) for pad in padding)
    groups = draw(st.sampled_from([1, 2, 3])) if stride == 1 else 1
    C, K = (groups * draw(st.integers(1, high // groups)) for high in (20, 70))
    P, Q = ((size + sum(pad) - taps) // stride + 1 for size, pad in zip((H, W), padding, strict=True))
    assume(winograd.wins((taps, taps, 999, 999), (stride, stride), 1, P, Q))
    return (draw(st.integers(1, 3)), H, W, C), (taps, taps, C // groups, K), stride, padding, groups


def check(some, x_shape, w_shape, stride, padding, groups):
    """All passes by transforms, whether they win or not."""
    x, w, b = some(x_shape), some(w_shape), some(w_shape[3:])
    x64, w64, geometry = x.astype(np.float64), w.astype(np.float64), all_pairs(stride, padding, groups=groups)
    want = ref.conv2d(x64, w64, b, geometry, relu=True)
    y = np.full(want.shape, np.nan, np.float32)
    winograd.forward(x, w, b, True, y, geometry)
    close(y, want, bound=TRANSFORMED)
    dy = some(y.shape)
    dy64, dw = dy.astype(np.float64), np.full(w_shape, np.nan, np.float32)
    winograd.wgrad(x, dy, dw, geometry)
    close(dw, ref.conv2d_wgrad(x64, dy64, w_shape, geometry), bound=TRANSFORMED)
    if stride == 1:
        dx = np.full(x_shape, np.nan, np.float32)
        winograd.dgrad(dy, w, dx, geometry)
        close(dx, ref.conv2d_dgrad(dy64, w64, x_shape, geometry), bound=TRANSFORMED)


@settings(max_examples=80, deadline=None)
@given(convolutions(), st.integers(0, 2**32))
def test_matches_the_reference(convolution, seed):
    rng = np.random.default_rng(seed)
    check(lambda shape: rng.random(shape, np.float32), *convolution)


WIDE = [case for case in CASES if case.window > 1 and case.groups <= 2]


@pytest.mark.parametrize("case", WIDE, ids=lambda case: f"{case.net} {case.name}")
def test_cases(case):
    """What the public functions choose; the direct kernels have tests of their own."""
    all_close(passes_of(case, normals()), TRANSFORMED)


@pytest.mark.parametrize("r", winograd.OUTPUTS)
def test_long_sums_stay_within_the_bound(r):
    """More channels, and more squares, than one sum is given."""
    rng = np.random.default_rng(r)
    deep, many = ((2, 9, 9, 600), (r, r, 600, 40)), ((9, 40, 40, 8), (r, r, 8, 40))
    for x_shape, w_shape in (deep, many):
        check(lambda shape: rng.standard_normal(shape, np.float32), x_shape, w_shape, 1, ((1, 1), (1, 1)), 1)


def test_they_are_chosen_where_they_win():
    """Square filters of the nets without a stride, and their first layers: not narrow ones, nor 1x1."""
    cases = [case for case in CASES if case.net in ("alexnet", "googlenet", "resnet50")]
    chosen = {(case.net, case.name) for case in cases if winograd.wins(
        case.shapes(1)[1], (case.stride, case.stride), case.groups, case.out, case.out)}
    wide = {(case.net, case.name) for case in cases if case.window > 1 and (case.stride == 1 or case.channels == 3)}
    assert chosen == wide
    assert not winograd.wins((3, 3, 2, 2), (1, 1), 1, 8, 8)
    assert not winograd.wins((3, 5, 64, 64), (1, 1), 1, 56, 56)
    assert not winograd.wins((3, 3, 64, 64), (1, 2), 1, 56, 56)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("size", "taps", "options"), [
    ((20, 21), 3, {"dilation": (2, 3), "padding": 2}), ((33, 30), 3, {"dilation": 4, "padding": ((4, 3), (0, 9))}),
    ((40, 36), 5, {"dilation": 2, "groups": 2})])
def test_dilated_convolutions_are_those_of_smaller_images(size, taps, options, dtype):
    x_shape, w_shape = (2, *size, 64), (taps, taps, 64 // options.get("groups", 1), 96)
    geometry = all_pairs(**options)
    y_shape = kernels.conv2d(random(x_shape), random(w_shape), **options).shape
    assert dilated.wins(w_shape, y_shape, geometry)
    target, bound = (HOST, TRANSFORMED) if dtype == "float32" else (check_all.numba("bfloat16").target, 4e-3)
    some = lambda shape: target.rounded(random(shape, sum(shape)))  # noqa: E731
    for name, got, want in passes(some, x_shape, w_shape, target, **options):
        assert np.abs(np.asarray(got, np.float64) - want).max() <= bound * np.abs(want).max(), name


def test_one_switch_turns_them_off(monkeypatch):
    x, w, options = random((2, 12, 12, 64)), random((3, 3, 64, 64), 1), all_pairs(padding=1)
    dy, results = random((2, 12, 12, 64), 2), {}
    for way in (direct, winograd):
        y, dx, dw = np.empty_like(dy), np.empty_like(x), np.empty_like(w)
        way.forward(x, w, np.zeros(0, np.float32), False, y, options)
        way.dgrad(dy, w, dx, options)
        way.wgrad(x, dy, dw, options)
        results[way] = y, dx, dw
    for enabled, way in ((True, winograd), (False, direct)):
        monkeypatch.setattr(winograd, "ENABLED", enabled)
        got = (kernels.conv2d(x, w, padding=1), kernels.conv2d_dgrad(dy, w, x.shape, padding=1),
               kernels.conv2d_wgrad(x, dy, w.shape, padding=1))
        for ours, theirs in zip(got, results[way], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("value", "enabled"), [("0", "False"), ("off", "False"), ("1", "True")])
def test_the_switch_is_in_the_environment(value, enabled):
    program = "from kernels.conv2d import winograd; print(winograd.ENABLED)"
    done = python(program, environment(KERNELS_WINOGRAD=value))
    assert done.stdout.strip() == enabled, done.stderr
