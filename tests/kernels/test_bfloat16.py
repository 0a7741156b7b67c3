"""bfloat16 on this processor: tiles of pairs, and what is made of them."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kernels
from kernels import check, micro
from kernels.check_target import here
from kernels.conv2d import check as conv2d
from kernels.conv2d import winograd
from kernels.dense import check as dense
from kernels.matmul.cpu import FEW_SHORT, FEW_SUMMED, FEW_TRANSPOSED
from kernels.matmul.pairs import WIDTH
from kernels.micro import ACCUMULATE, BFLOAT16, RELU
from kernels.rooms import part, rooms
from tests.kernels.oracle import locked, random
from tests.kernels.test_conv2d import convolutions
from tests.kernels.test_micro import call

SHORT = ml_dtypes.bfloat16
TARGET = here(SHORT)
TARGETS = TARGET, TARGET._replace(factor=lambda array: array)  # weights in bfloat16, and in float32


def shorts(rng, *shape):
    """Normal numbers."""
    return rng.standard_normal(shape, np.float32).astype(SHORT)


def as_pairs(array, axis):
    """What the tile takes of numbers that follow each other along an even axis: pairs in 4 bytes, as float32."""
    first, second = (np.take(array, range(start, array.shape[axis], 2), axis) for start in (0, 1))
    return np.stack([first, second], -1).view(np.float32)[..., 0]


@pytest.fixture(params=["AVX512_BF16", "any processor"])
def tile(request, monkeypatch):
    """Both ways to multiply pairs, where this processor has the first."""
    if request.param == "any processor":
        monkeypatch.setattr(micro, "has", lambda feature: False)
    return micro.pairs_tile.__wrapped__()


@pytest.mark.parametrize("mode", [0, RELU, BFLOAT16, BFLOAT16 | RELU, ACCUMULATE, ACCUMULATE | RELU])
def test_tiles_of_every_size(tile, mode):
    rng = np.random.default_rng(mode)
    for rows in range(1, tile.rows + 1):
        for columns in range(1, tile.columns + 1):
            blocks, half = rng.integers(1, 4, 2)
            a, b = shorts(rng, blocks, rows, 2 * half), shorts(rng, blocks, 2 * half, columns + 3)[:, :, :columns]
            left, right, bias = as_pairs(a, 2), as_pairs(b, 1), random(columns)
            around = random((rows + 1, columns + 2)).astype(SHORT if mode & BFLOAT16 else np.float32)
            before, c = around.copy(), around[:rows, :columns]
            offsets = [np.arange(blocks) * each.strides[0] for each in (left, right)]
            call(tile.address, (rows, columns, half, left.ctypes.data, *left.strides[1:], right.ctypes.data,
                                right.strides[1], c.ctypes.data, c.strides[0], blocks,
                                *(each.ctypes.data for each in offsets), mode, bias.ctypes.data, 0, 0, 0))
            want = np.einsum("tik,tkj->ij", a.astype(np.float64), b.astype(np.float64))
            want += before[:rows, :columns] if mode & ACCUMULATE else bias
            got, want = c.astype(np.float64), np.maximum(want, 0) if mode & RELU else want
            assert (abs(got - want) <= 1e-5 + (2**-8 * abs(want) if mode & BFLOAT16 else 0)).all()
            around[:rows, :columns] = before[:rows, :columns]
            np.testing.assert_array_equal(around.view(np.uint8), before.view(np.uint8), "wrote outside of C")


def test_what_is_stored_is_the_nearest_and_nan_stays(tile):
    values = np.array([1.00390625, -1.01171875, 3.4e38, 2e-38, np.inf, -np.inf, np.nan, 0.1], np.float32)
    bias, one = np.resize(values, tile.columns), as_pairs(np.zeros((1, 1, 2), SHORT), 2)
    c, zeros = np.zeros((1, tile.columns), SHORT), as_pairs(np.zeros((1, 2, tile.columns), SHORT), 1)
    offset = np.zeros(1, np.intp).ctypes.data
    call(tile.address, (1, tile.columns, 1, one.ctypes.data, 4, 4, zeros.ctypes.data, zeros.strides[1], c.ctypes.data,
                        c.strides[0], 1, offset, offset, BFLOAT16, bias.ctypes.data, 0, 0, 0))
    np.testing.assert_array_equal(c[0].astype(np.float32), TARGET.rounded(bias))


def within(passes, bound):
    """Every (pass, result, reference); gradients by weights are float32, all else is bfloat16."""
    for name, got, want in passes:
        assert got.dtype == (np.float32 if name.endswith(("wgrad", "bias_grad")) else SHORT), name
        assert check.error(got, want) <= bound.of("cpu", got), name


def source(seed):
    """Of float32 arrays that bfloat16 can hold, whose sums do not cancel."""
    rng = np.random.default_rng(seed)
    return lambda shape: TARGET.rounded(rng.random(shape, np.float32))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300) | st.integers(2000, 5000), st.integers(1, 70), st.integers(0, 2**32),
       st.sampled_from(TARGETS))
def test_dense_matches_the_reference(M, C, K, seed, target):
    some = source(seed)
    within(dense.passes(some((M, C)), some((C, K)), some(K), some((M, K)), target), dense.BOUND)


@pytest.mark.parametrize("M", [*FEW_TRANSPOSED, FEW_SHORT, FEW_SUMMED])
@pytest.mark.parametrize(("C", "K"), [(259, 31), (30, WIDTH + 70), (33, 2 * WIDTH)])
@pytest.mark.parametrize("more", [0, 1])
def test_dense_with_rows_around_those_that_another_way_begins_with(M, C, K, more):
    some = source(M)
    for target in TARGETS:
        within(dense.passes(some((M + more, C)), some((C, K)), some(K), some((M + more, K)), target), dense.BOUND)


@pytest.mark.parametrize("M", [1, 7, FEW_SUMMED, FEW_SUMMED + 1])
def test_gradients_by_weights_may_be_rounded(M):
    rng = np.random.default_rng(M)
    x, dy = shorts(rng, M, 45), shorts(rng, M, 70)
    out = np.empty((45, 70), SHORT)
    assert kernels.dense_wgrad(x, dy, out=out) is out
    np.testing.assert_array_equal(out, kernels.dense_wgrad(x, dy).astype(SHORT))


@pytest.fixture(scope="module", params=["pairs", "transforms"])
def ways(request):
    """Of convolutions that both can make."""
    enabled, winograd.ENABLED = winograd.ENABLED, request.param == "transforms"
    yield
    winograd.ENABLED = enabled


@pytest.mark.usefixtures("ways")
@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(0, 2**32), st.sampled_from(TARGETS))
def test_convolutions_match_the_reference(convolution, seed, target):
    x_shape, w_shape, options = convolution
    within(conv2d.passes(source(seed), x_shape, w_shape, target, **options), conv2d.BOUND)


@pytest.mark.usefixtures("ways")
@pytest.mark.parametrize(("x", "w", "options"), [
    ((2, 7, 7, 130), (3, 3, 130, 40), {"padding": 1}), ((2, 9, 9, 128), (3, 3, 128, 16), {"padding": 1, "stride": 2}),
    ((3, 40, 40, 64), (3, 3, 64, 64), {"padding": 1}), ((1, 60, 61, 3), (7, 7, 3, 64), {"stride": 2, "padding": 3})])
def test_lines_shorter_than_a_tile_and_images_larger_than_a_cache(x, w, options):
    within(conv2d.passes(source(0), x, w, TARGET, **options), conv2d.BOUND)


@pytest.mark.parametrize("room", rooms())
def test_the_last_cases_of_every_room(room):
    cases = part(room, "cases").CASES[-3:]
    for _, name, off, bound in check.results(room, check.numba("bfloat16"), cases):
        assert off <= bound, name


def some_layers(dtype):
    """[(function, arguments, options)] of both rooms."""
    x, dy, w = random((70, 34)).astype(dtype), random((70, 40), 1).astype(dtype), random((34, 40), 2)
    image, taps, gradient = random((3, 9, 9, 6)).astype(dtype), random((3, 3, 6, 8)), random((3, 9, 9, 8)).astype(dtype)
    return [(kernels.dense, (x, w), {}), (kernels.dense_dgrad, (dy, w), {}), (kernels.dense_wgrad, (x, dy), {}),
            (kernels.bias_grad, (dy,), {}), (kernels.conv2d, (image, taps), {"padding": 1}),
            (kernels.conv2d_dgrad, (gradient, taps, image.shape), {"padding": 1}),
            (kernels.conv2d_wgrad, (image, gradient, taps.shape), {"padding": 1})]


def test_threads_views_and_read_only_arrays_give_the_same_bits():
    views = (np.asfortranarray, locked, lambda array: np.repeat(array, 2, -1)[..., ::2])
    for function, arrays, options in some_layers(SHORT):
        want = function(*arrays, **options)
        for view in views:
            got = function(*(view(each) if isinstance(each, np.ndarray) else each for each in arrays), **options)
            np.testing.assert_array_equal(got, want, function.__name__)
        kernels.set_num_threads(2)
        try:
            np.testing.assert_array_equal(function(*arrays, **options), want, function.__name__)
        finally:
            kernels.set_num_threads(1)
        out = np.empty_like(want)
        assert function(*arrays, out=out, **options) is out
        np.testing.assert_array_equal(out, want)


def test_nan_stays_in_its_sample():
    x, w = random((100, 33)).astype(SHORT), random((33, 40))
    x[70, 32] = np.nan
    y = kernels.dense(x, w, relu=True)
    assert np.isnan(y[70]).all()
    assert np.isfinite(np.delete(y, 70, 0).astype(np.float32)).all()


def test_weights_and_results_of_another_dtype_are_refused():
    x = np.zeros((2, 2), SHORT)
    with pytest.raises(ValueError, match=r"dense: w must be \(C,K\) float32, got \(2,2\) bfloat16"):
        kernels.dense(x.astype(np.float32), x)
    with pytest.raises(ValueError, match="must be a writeable, C-contiguous bfloat16 array"):
        kernels.dense(x, np.zeros((2, 2), np.float32), out=np.zeros((2, 2), np.float32))
