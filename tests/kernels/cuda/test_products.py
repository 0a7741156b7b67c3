"""Convolution, dense layers and products of matrices on the emulated GPU, in all three precisions."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kernels
from kernels import check, gpu
from kernels.conv2d import check as conv2d
from kernels.conv2d import cuda
from kernels.conv2d.cases import Case
from kernels.cuda import products
from kernels.dense import check as dense
from kernels.matmul import check as matmul
from kernels.matmul.cases import Case as Product
from tests.kernels.cuda.rooms import MODES, forget, is_caught

BACKENDS = ("float32", "tf32", "bfloat16")


@pytest.fixture(params=BACKENDS)
def backend(request, device):
    """Where and how products are computed."""
    yield check.cuda(request.param)
    gpu.set_precision("float32")


def agree(room, backend, passes):
    """Every (pass, result, reference), by the BOUND of a room's check.py."""
    for part, got, want in passes:
        found, bound = check.error(got, want), room.BOUND.of(backend.precision, got)
        assert found <= bound, f"{backend.name} {room.__name__} {part}: {found:.1e} > {bound:.1e}"


def numbers(backend, seed=0, kind=np.asarray):
    """A source of arrays of normal numbers, or a function of them, that the precision can hold."""
    draw = check.normals(seed)
    return lambda shape: backend.target.rounded(kind(draw(shape)))


# The nets' layers, their images cut down: whole chunks and odd ones, groups, strides, long sums in parts. Compiling for
# them takes longest. Compiled are, for these and the products below, every pass in every precision; every tile in every
# precision with operands that lie as each pass has them, of a convolution or of a dense layer; and number by number
# every pass of both types, of dense layers in every precision.
LAYERS = [
    ("bfloat16", Case("alexnet", "conv1", 31, 3, 96, 11, stride=4)),
    ("bfloat16", Case("alexnet", "conv2", 7, 96, 256, 5, padding=2, groups=2)),
    ("tf32", Case("googlenet", "3a/5x5_reduce", 5, 192, 16, 1)),
    ("tf32", Case("resnet50", "2a/3x3", 9, 64, 64, 3, padding=1)),
    ("bfloat16", Case("resnet50", "3a/3x3", 8, 128, 128, 3, stride=2, padding=1)),
    ("float32", Case("resnet50", "3a/shortcut", 8, 64, 136, 1, stride=2)),
    ("float32", Case("odd", "strided 1x1", 15, 7, 33, 1, stride=2)),
    ("float32", Case("odd", "stride over window", 11, 5, 6, 2, stride=3)),
    ("float32", Case("odd", "one pixel", 1, 1, 1, 1)),
    ("float32", Case("odd", "grouped", 9, 12, 18, 3, stride=2, padding=1, groups=6)),
    ("bfloat16", Case("odd", "grouped", 9, 12, 18, 3, stride=2, padding=1, groups=6)),
]
SHAPES = [*itertools.product(BACKENDS, [(1, 1, 1), (3, 131, 67), (70, 520, 136)]),
          ("float32", (1100, 16, 72))]  # so many tiles that they go in bands
MATRICES = [("float32", Product("batches", (2, 2), 40, 24, 64)), ("bfloat16", Product("batches", (3,), 40, 24, 64)),
            ("float32", Product("odd", (3,), 29, 47, 19))]


def each_in(name, cases):
    """Cases with the precision of each."""
    return pytest.mark.parametrize(("backend", name), cases, indirect=["backend"],
                                   ids=[f"{backend} {getattr(case, 'name', case)}" for backend, case in cases])


@each_in("case", LAYERS)
def test_convolutions(case, backend, device):
    mode = MODES[[case for _, case in LAYERS].index(case) % len(MODES)]
    with device.emulator.mode(**mode):
        agree(conv2d, backend, conv2d.passes_of(case, numbers(backend), backend.target))


@each_in("shape", SHAPES)
def test_dense_layers(shape, backend):
    M, C, K = shape
    some = numbers(backend)
    agree(dense, backend, dense.passes(some((M, C)), some((C, K)), some((K,)), some((M, K)), backend.target))


@each_in("case", MATRICES)
def test_matrices_that_lie_either_way(case, backend):
    agree(matmul, backend, matmul.passes_of(case, numbers(backend), backend.target))


@pytest.mark.parametrize("backend", ["float32"], indirect=True)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_convolution(backend, data):
    groups, R, S = (data.draw(st.integers(1, most)) for most in (3, 4, 3))
    stride, padding = ((data.draw(st.integers(low, 3)), data.draw(st.integers(low, 3))) for low in (1, 0))
    dilation = data.draw(st.sampled_from([(1, 1), (2, 3), (3, 2)]))
    H, W = (data.draw(st.integers(max(1, (window - 1) * apart + 1 - 2 * p), 12))
            for window, p, apart in zip((R, S), padding, dilation, strict=True))
    N, channels = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([1, 3, 8]))
    C = groups * channels
    K = groups * data.draw(st.sampled_from([1, 3, channels]))
    some = numbers(backend, kind=np.abs)  # sums of few products that cancel would be off by any share of themselves
    agree(conv2d, backend, conv2d.passes(some, (N, H, W, C), (R, S, C // groups, K), backend.target, stride=stride,
                                           padding=padding, dilation=dilation, groups=groups))


@pytest.mark.parametrize("backend", ["float32"], indirect=True)
def test_parts_of_a_sum_are_added_in_their_order(backend):
    """So the bits are the same every time, and on every GPU that cuts alike."""
    x, dy = (backend.target.x(numbers(backend, seed)(shape)) for seed, shape in enumerate([(3000, 8), (3000, 24)]))
    assert products.cut(8, 24, 3000, 1, x, dy, x, lines=((8,), (24,))).splits > 1
    first, second = (kernels.dense_wgrad(x, dy).get() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_nan_passes_through_relu_in_its_sample_only(backend):
    x, w = numbers(backend)((70, 40)), numbers(backend, 1)((40, 72))
    x[15, 3] = np.nan
    y = gpu.fetch(kernels.dense(backend.target.x(x), backend.target.w(w), relu=True))
    assert np.isnan(y[15]).all()
    assert (np.delete(y, 15, 0) >= 0).all()


def test_arrays_that_begin_anywhere(backend, device):
    """Chunks of 16 bytes are for addresses that are multiples of that."""
    def moved(array):
        there = device.empty(array.size + 1, array.dtype)[1:].reshape(array.shape)
        there[...] = array
        return there

    x, w = numbers(backend)((16, 64)), numbers(backend, 1)((64, 64))
    want, arrays = x.astype(np.float64) @ w, (backend.target.x(x), backend.target.w(w))
    agree(dense, backend, [("there", kernels.dense(*arrays), want),
                             ("moved", kernels.dense(*map(moved, arrays)), want)])


def test_gradients_by_weights_in_the_dtype_of_activations(backend, device):
    x, dy = (backend.target.x(numbers(backend, seed)((9, 16))) for seed in (0, 1))
    out = device.empty((16, 16), x.dtype)
    assert kernels.dense_wgrad(x, dy, out=out) is out
    np.testing.assert_array_equal(gpu.fetch(out), gpu.fetch(kernels.dense_wgrad(x, dy).astype(x.dtype)))


@pytest.mark.parametrize(("precision", "statement", "instead"), [
    ("float32", "__syncthreads();  // the tile is there for all", "// the tile is there for all"),
    ("bfloat16", "__syncthreads();  // the tile is there for all", "// the tile is there for all"),
    ("tf32", "cp_async_wait<STAGES - 2>();", "cp_async_wait<STAGES - 1>();"),
    ("bfloat16", "cp_async_wait<STAGES - 2>();", "cp_async_wait<STAGES>();"),
    ("tf32", "(chunk ^ line % CHUNKS)", "chunk"),
], ids=["no barrier", "no barrier, tensor cores", "waits for one too few", "waits for none", "another swizzle"])
def test_mutants(precision, statement, instead, device, monkeypatch):
    """What must be caught, and what must not be: any swizzle is right if reader and writer agree."""
    source, backend, some = gpu.source, check.cuda(precision), numbers(check.cuda(precision))
    monkeypatch.setattr(gpu, "source", lambda *room: source(*room).replace(statement, instead))
    forget()
    x, w = some((70, 520)), some((520, 72))

    def work():
        got = kernels.dense(backend.target.x(x), backend.target.w(w))
        agree(dense, backend, [("dense", got, x.astype(np.float64) @ w)])

    caught = is_caught(device, work)
    gpu.set_precision("float32")
    assert caught == (instead != "chunk")


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_divisions_are_multiplications(by, n):
    for number in (n, n // by * by, max(0, n // by * by - 1), 2**31 - 1):
        _, factor, shift = cuda._divisor(by)
        assert factor < 2**32
        assert ((number * factor >> 32) + number) >> shift == number // by


def test_more_products_than_a_grid_has(device):
    with pytest.raises(ValueError, match="matmul: on the GPU there must be at most 65535 batches or groups, are 65536"):
        kernels.matmul(*device.ones((2, 1 << 16, 1, 1), np.float32))


def test_images_beyond_what_a_place_can_say(device):
    with pytest.raises(ValueError, match="images on the GPU must be smaller than 8192 x 8192"):
        kernels.conv2d(device.empty((1, 8192, 1, 1), np.float32), device.empty((1, 1, 1, 1), np.float32), padding=1)
