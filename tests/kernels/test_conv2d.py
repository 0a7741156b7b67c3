import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import event

import kernels
from kernels import arguments
from kernels.check import normals
from kernels.conv2d import check, direct, ref, winograd
from kernels.conv2d.cases import CASES
from tests.kernels.oracle import all_close, close, locked, numeric_gradient, random


@pytest.fixture(autouse=True, scope="module")
def _direct_kernels():
    """Transforms are less exact and have tests of their own."""
    enabled, winograd.ENABLED = winograd.ENABLED, False
    yield
    winograd.ENABLED = enabled


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
    dilation = draw(st.sampled_from([1, 1, 2]) | st.tuples(*[st.integers(1, 4)] * 2))
    H, W = (draw(st.integers(max(1, apart * (taps - 1) + 1 - pad), 18)) for apart, taps, pad in zip(
        arguments.pair("test", "dilation", dilation), (R, S), (top + bottom, left + right), strict=True))
    groups = draw(st.sampled_from([1, 1, 2, 3, None]))  # the last: one for each channel
    if groups is None:
        groups = C = K = draw(st.integers(2, 70))
    else:
        C, K = (groups * draw(st.integers(1, most // groups)) for most in (20, 70))
    stride = draw(st.integers(1, 3) | st.tuples(*[st.integers(1, 6)] * 2))
    return ((draw(st.integers(1, 3)), H, W, C), (R, S, C // groups, K),
            {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups})


@settings(max_examples=150, deadline=None)
@given(convolutions(), st.sampled_from(["whole", "fractions"]), st.integers(0, 2**32))
def test_matches_the_reference(convolution, kind, seed):
    x_shape, w_shape, options = convolution
    all_close(check.passes(numbers(kind, seed), x_shape, w_shape, **options))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.net} {case.name}")
def test_cases(case):
    x, _, y = case.shapes(3)
    assert (x[0], *y) == (3, 3, case.out, case.out, case.filters)
    all_close(check.passes_of(case, normals()))


GRADIENTS = [
    ((2, 4, 5, 3), (3, 2, 3, 2), {"stride": (1, 2), "padding": ((1, 0), (0, 2))}),
    ((1, 5, 4, 4), (2, 3, 2, 6), {"stride": 2, "padding": 1, "groups": 2}),
    ((2, 5, 5, 2), (1, 1, 2, 3), {"stride": 3}),
    ((1, 7, 8, 2), (3, 2, 2, 3), {"stride": (2, 3), "padding": 2, "dilation": (2, 3)}),
    ((2, 6, 7, 3), (3, 3, 1, 3), {"stride": (1, 2), "padding": 1, "dilation": (2, 1), "groups": 3}),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), GRADIENTS)
def test_gradients_by_finite_differences(x_shape, w_shape, options):
    x, w, b, geometry = random(x_shape), random(w_shape, 1), random(w_shape[3:], 2), check.geometry(**options)
    x64, w64, b64 = (array.astype(np.float64) for array in (x, w, b))
    dy = random(ref.conv2d(x, w, b, geometry).shape, 3)
    dx = numeric_gradient(lambda x: ref.conv2d(x, w64, b64, geometry), x, dy)
    dw = numeric_gradient(lambda w: ref.conv2d(x64, w, b64, geometry), w, dy)
    db = numeric_gradient(lambda b: ref.conv2d(x64, w64, b, geometry), b, dy)
    dy64 = dy.astype(np.float64)
    np.testing.assert_allclose(ref.conv2d_dgrad(dy64, w64, x_shape, geometry), dx, atol=1e-7)
    np.testing.assert_allclose(ref.conv2d_wgrad(x64, dy64, w_shape, geometry), dw, atol=1e-7)
    np.testing.assert_allclose(ref.bias_grad(dy64), db, atol=1e-7)
    close(kernels.conv2d_dgrad(dy, w, x_shape, **options), dx)
    close(kernels.conv2d_wgrad(x, dy, w_shape, **options), dw)
    close(kernels.bias_grad(dy), db)


def test_the_reference_is_the_definition():
    x, w = random((1, 5, 6, 4)).astype(np.float64), random((3, 2, 2, 6), 1).astype(np.float64)
    y = ref.conv2d(x, w, None, check.geometry((2, 3), ((1, 0), (0, 2)), (2, 3), 2))
    assert y.shape == (1, 1, 2, 6)
    for p, q, k in np.ndindex(y.shape[1:]):
        terms = (x[0, h, v, k // 3 * 2 + c] * w[r, s, c, k] for r, s, c in np.ndindex(3, 2, 2)
                 if 0 <= (h := 2 * p + 2 * r - 1) < 5 and 0 <= (v := 3 * q + 3 * s) < 6)
        np.testing.assert_allclose(y[0, p, q, k], sum(terms), rtol=1e-12)


BLOCKS = {
    "a padded image larger than the cache": ((2, 60, 70, 40), (3, 3, 40, 35), {"padding": 1}),
    "a plain image larger than the cache": ((2, 60, 70, 40), (3, 2, 40, 35), {"stride": (1, 2)}),
    "padded batches of several blocks": ((23, 16, 15, 36), (3, 3, 18, 38), {"padding": ((0, 1), (2, 1)), "groups": 2}),
    "plain batches of several blocks": ((23, 16, 15, 36), (2, 3, 36, 33), {"stride": 2}),
    "one long line, cut": ((5, 31, 37, 64), (1, 1, 64, 35), {}),
    "one long line of short pieces": ((3, 5, 7, 7100), (1, 1, 7100, 3), {}),
    "each channel alone, in bands": ((2, 60, 70, 40), (5, 5, 1, 40), {"padding": 2, "stride": 2, "groups": 40}),
    "a row larger than the cache": ((1, 3, 210, 500), (2, 3, 500, 5), {"padding": (0, 1)}),
}


@pytest.mark.parametrize(("x_shape", "w_shape", "options"), BLOCKS.values(), ids=BLOCKS)
def test_blocks(x_shape, w_shape, options):
    assert 4 * np.prod(x_shape) > direct.CACHED
    all_close(check.passes(numbers("whole", 0), x_shape, w_shape, **options))


@pytest.mark.parametrize("options", [{}, {"stride": 2}])
def test_a_window_as_large_as_the_image_is_a_dense_layer(options):
    all_close(check.passes(numbers("whole", 0), (70, 5, 7, 9), (5, 7, 9, 35), **options))


@pytest.mark.parametrize("options", [{}, {"padding": (1, 2), "stride": 2, "dilation": 2},
                                     {"padding": 3, "stride": (3, 1)}])
def test_few_pixels_and_large_weights(options):
    all_close(check.passes(numbers("whole", 0), (2, 6, 5, 130), (3, 3, 130, 140), **options))


SMALL = (2, 6, 7, 4), (3, 2, 2, 6), {"stride": (1, 2), "padding": ((1, 2), (0, 1)), "groups": 2}


def passes(x_shape, w_shape, options):
    """[(function of (arrays, out), its arrays)] for each operation."""
    x, w, b = random(x_shape), random(w_shape, 1), random(w_shape[3:], 2)
    dy = random(kernels.conv2d(x, w, **options).shape, 3)
    return [(lambda *a, out=None: kernels.conv2d(*a, out=out, **options), (x, w, b)),
            (lambda *a, out=None: kernels.conv2d_dgrad(*a, x_shape, out=out, **options), (dy, w)),
            (lambda *a, out=None: kernels.conv2d_wgrad(*a, w_shape, out=out, **options), (x, dy)),
            (kernels.bias_grad, (dy,))]


@pytest.mark.parametrize("convolution", [SMALL, ((3, 4, 5, 3), (1, 1, 3, 2), {}),
                                         ((2, 7, 5, 3), (1, 2, 3, 2), {"stride": 3})])
def test_out_is_written_and_returned(convolution):
    for function, arrays in passes(*convolution):
        want = function(*arrays)
        out = np.full_like(want, np.nan)
        assert function(*arrays, out=out) is out
        np.testing.assert_array_equal(out, want)


def unaligned(array):
    copy = np.zeros(array.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(array.shape)
    copy[:] = array
    return copy


VIEWS = {"transposed": np.asfortranarray, "strided": lambda a: np.repeat(a, 2, -1)[..., ::2],
         "backward": lambda a: a[::-1].copy()[::-1], "read-only": locked, "unaligned": unaligned}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("options", [SMALL[2], {"groups": 2}, {"dilation": (1, 2), "groups": 2}],
                         ids=["padded", "plain", "dilated"])
def test_any_view_gives_the_same_and_is_not_changed(view, options):
    for function, arrays in passes(*SMALL[:2], options):
        viewed = [view(array) for array in arrays]
        np.testing.assert_array_equal(function(*viewed), function(*arrays))
        for array, original in zip(viewed, arrays, strict=True):
            np.testing.assert_array_equal(array, original)


def test_read_only_arrays_have_no_kernels_of_their_own():
    for function, arrays in passes(*SMALL):
        function(*arrays)
        with event.install_recorder("numba:compile") as compiled:
            function(*map(locked, arrays))
        assert not compiled.buffer


@pytest.mark.parametrize("padding", [0, 1])
def test_nan_passes_through_relu_where_it_is_seen(padding):
    x, w = random((2, 9, 40, 3)), random((3, 3, 3, 35), 1)
    x[1, 4, 20, 2] = np.nan
    y = kernels.conv2d(x, w, random(35, 2), padding=padding, relu=True)
    seen = np.zeros(y.shape, bool)
    seen[1, 2 + padding:5 + padding, 18 + padding:21 + padding] = True
    np.testing.assert_array_equal(np.isnan(y), seen)
    assert y[~seen].min() == 0


def test_no_options_are_stride_one_without_padding():
    x, w = random((2, 5, 6, 4)), random((3, 3, 4, 5), 1)
    close(kernels.conv2d(x, w), ref.conv2d(x.astype(np.float64), w, None, check.geometry()))
    np.testing.assert_array_equal(kernels.conv2d(x, w, padding=(1, 2)), kernels.conv2d(x, w, padding=((1, 1), (2, 2))))
    np.testing.assert_array_equal(kernels.conv2d(x, w, dilation=2), kernels.conv2d(x, w, dilation=(2, np.int32(2))))
    np.testing.assert_array_equal(kernels.conv2d(x, w, stride=np.int32(2)), kernels.conv2d(x, w, stride=(2, 2)))


X, W, B, DY = random((2, 5, 6, 4)), random((3, 3, 4, 8)), random(8), random((2, 3, 4, 8))
BOTH = r"x \(2, 5, 6, 4\), w \(3, 3, 4, 8\)"


@pytest.mark.parametrize(("operation", "arrays", "options", "message"), [
    ("conv2d", (X.astype(np.float64), W), {}, r"x must be \(N,H,W,C\) float32( or bfloat16)?, got \(2,5,6,4\) float64"),
    ("conv2d", (X, W.astype(np.float16)), {}, r"w must be \(R,S,C,K\) float32( or bfloat16)?, got \(3,3,4,8\) float16"),
    ("conv2d", (X[0], W), {}, r"x must be \(N,H,W,C\) float32( or bfloat16)?, got \(5,6,4\)"),
    ("conv2d", (X, [1.0]), {}, r"w must be .*got list"),
    ("conv2d", (X[:0], W), {}, r"x \(0,5,6,4\) is empty"),
    ("conv2d", (X, W[..., :0]), {}, r"w \(3,3,4,0\) is empty"),
    ("conv2d", (X, W[:, :, :3]), {}, r"C/groups input channels: x \(2, 5, 6, 4\), w \(3, 3, 3, 8\), groups 1"),
    ("conv2d", (X, W), {"groups": 2}, rf"C/groups input channels: {BOTH}, groups 2"),
    ("conv2d", (X, W), {"groups": 3}, rf"groups must be a positive int that divides the channels: {BOTH}, groups 3"),
    ("conv2d", (X, W[:, :, :1, :6]), {"groups": 4}, r"divides the channels: x .*w \(3, 3, 1, 6\), groups 4"),
    ("conv2d", (X, W), {"groups": 0}, rf"groups must be .*{BOTH}, groups 0"),
    ("conv2d", (X, W), {"groups": -1}, rf"groups must be .*{BOTH}, groups -1"),
    ("conv2d", (X, W), {"groups": 1.0}, rf"groups must be .*{BOTH}, groups 1.0"),
    ("conv2d", (X[:, :2], W), {}, r"filter is larger than the padded image: x \(2, 2, 6, 4\), w \(3, 3, 4, 8\)"),
    ("conv2d", (X[:, :, :1], W), {"padding": ((9, 9), (0, 1))}, r"larger .*padding \(\(9, 9\), \(0, 1\)\)"),
    ("conv2d", (X, W), {"dilation": 3}, r"larger than .* w \(3, 3, 4, 8\), padding .*, dilation \(3, 3\)"),
    ("conv2d", (X, W), {"dilation": 0}, "dilation must be an int or a pair of ints of at least 1, got 0"),
    ("conv2d", (X, W), {"stride": 0}, "stride must be an int or a pair of ints of at least 1, got 0"),
    ("conv2d", (X, W), {"stride": (1, 0)}, r"stride must be .*got \(1, 0\)"),
    ("conv2d", (X, W), {"stride": (1, 1, 1)}, r"stride must be .*got \(1, 1, 1\)"),
    ("conv2d", (X, W), {"stride": 1.5}, "stride must be .*got 1.5"),
    ("conv2d", (X, W), {"padding": -1}, "padding must be an int or a pair of ints of at least 0, got -1"),
    ("conv2d", (X, W), {"padding": (1, 1, 1)}, r"padding must be .*got \(1, 1, 1\)"),
    ("conv2d", (X, W), {"padding": ((1, 1),)}, r"padding must be an int, a pair or two pairs, got \(\(1, 1\),\)"),
    ("conv2d", (X, W), {"padding": ((1, 1), (0, -1))}, r"padding must be .*got \(0, -1\)"),
    ("conv2d", (X, W), {"padding": ((1, 2), 3)}, r"padding must be an int, a pair or two pairs, got \(\(1, 2\), 3\)"),
    ("conv2d_dgrad", (DY, W, 5), {}, "x_shape must be four positive sizes, got 5"),
    ("conv2d_dgrad", (DY, W, (2, 5.5, 7, 6)), {}, r"x_shape must be four positive sizes, got \(2, 5.5"),
    ("conv2d", (X, W), {"padding": "same"}, "padding must be .*got 'same'"),
    ("conv2d", (X, W, B[:7]), {}, "b must have K=8 values, has 7"),
    ("conv2d", (X, W, B[:0]), {}, r"b \(0\) is empty"),
    ("conv2d", (X, W, DY), {}, r"b must be \(K\) float32( or bfloat16)?, got \(2,3,4,8\)"),
    ("conv2d_dgrad", (DY[:, :2], W, X.shape), {}, r"dy must be \(2, 3, 4, 8\) .*got \(2,2,4,8\)"),
    ("conv2d_dgrad", (DY, W, X.shape), {"stride": 2}, r"dy must be \(2, 2, 2, 8\) .*got \(2,3,4,8\)"),
    ("conv2d_dgrad", (DY[0], W, X.shape), {}, r"dy must be \(N,P,Q,K\) float32( or bfloat16)?, got \(3,4,8\)"),
    ("conv2d_dgrad", (DY, W, X.shape[1:]), {}, r"x_shape must be four positive sizes, got \(5, 6, 4\)"),
    ("conv2d_dgrad", (DY, W, (2, 5, 0, 4)), {}, r"x_shape must be four positive sizes, got \(2, 5, 0, 4\)"),
    ("conv2d_dgrad", (DY, W, (2, 5, 6, 3)), {}, r"x \(2, 5, 6, 3\), w \(3, 3, 4, 8\), groups 1"),
    ("conv2d_wgrad", (X, DY[:1], W.shape), {}, r"dy must be \(2, 3, 4, 8\) .*got \(1,3,4,8\)"),
    ("conv2d_wgrad", (X, DY[..., :7], W.shape), {}, r"dy must be \(2, 3, 4, 8\) .*got \(2,3,4,7\)"),
    ("conv2d_wgrad", (X, DY, (3, 3, 2, 8)), {}, r"x \(2, 5, 6, 4\), w \(3, 3, 2, 8\), groups 1"),
    ("conv2d_wgrad", (X, DY, (7, 3, 4, 8)), {}, r"filter is larger .*w \(7, 3, 4, 8\)"),
    ("conv2d_wgrad", (X, DY, W.shape), {"groups": 0}, rf"{BOTH}, groups 0"),
    ("bias_grad", (DY[0],), {}, r"dy must be \(N,K\) float32( or bfloat16)?, got \(3,4,8\)"),
    ("bias_grad", (DY.astype(int),), {}, r"dy must be \(N,P,Q,K\) float32( or bfloat16)?, got \(2,3,4,8\) int64"),
])
def test_errors_name_the_operation_and_the_shapes(operation, arrays, options, message):
    with pytest.raises(ValueError, match=f"^{operation}: .*{message}"):
        getattr(kernels, operation)(*arrays, **options)


def test_an_output_that_does_not_fit_is_refused():
    operations = {"conv2d": (X, W), "conv2d_dgrad": (DY, W, X.shape), "conv2d_wgrad": (X, DY, W.shape),
                  "bias_grad": (DY,)}
    for operation, arrays in operations.items():
        function = getattr(kernels, operation)
        good = function(*arrays)
        message = f"{operation}: out must be a writeable, C-contiguous float32 array of shape {good.shape}"
        strided = np.repeat(good, 2, -1)[..., ::2]
        for out in (good[..., :-1].copy(), good.astype(np.float64), strided, locked(good), good.tolist()):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
                function(*arrays, out=out)
