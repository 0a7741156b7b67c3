"""Convolution on the GPU: which pixels and filters a product is made of; see cuda.cu."""

import functools
import itertools
import math

import numpy as np

from kernels import gpu
from kernels.arguments import require
from kernels.cuda import products, row_reduction
from kernels.matmul import cuda as matmul

LIMIT = 1 << 13  # rows and columns of an image; cuda.cu's OUTSIDE is beyond
MOST = 1 << 31  # numbers in an array
FORWARD, DGRAD, WGRAD, BIAS = range(4)
REGISTERS = 255
BUILDS = [*products.builds([{"PASS": FORWARD}, {"PASS": DGRAD}, {"PASS": WGRAD, "O": "float"}]),
          *({"T": T, "VEC": vec, "PASS": BIAS} for T, vec in (("float", 4), ("bfloat16", 8), ("float", 1)))]


def _check(*arrays):
    for array in arrays:
        require(max(array.shape[1:3]) < LIMIT and array.size < MOST, "conv2d",
                "images on the GPU must be smaller than {0} x {0}, and have less than 2^31 numbers, got {1}", LIMIT,
                array)


def _is_product(w_shape, geometry):
    """Whether each output pixel depends on one input pixel: then it is a matrix product."""
    return w_shape[:2] == (1, 1) and geometry == ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)


def _rows(array):
    """(N,H,W,C) as (pixels,C)."""
    return array.reshape(-1, array.shape[-1])


def _padded(array, axis, groups):
    """With zeros for further channels, so that 16 bytes are a divisor of them; as it is where they are in groups."""
    numbers, channels = 16 // array.itemsize, array.shape[axis]
    if channels % numbers == 0 or groups > 1:
        return array
    more = gpu.cupy().zeros([-(-n // numbers) * numbers if i == axis else n for i, n in enumerate(array.shape)],
                            array.dtype)
    more[(slice(None),) * axis + (slice(channels),)] = array
    return more


def _divisor(by):
    """(divisor, factor, shift) of cuda.cu's Divisor, which divides by multiplying."""
    shift = (by - 1).bit_length()
    return by, (((1 << shift) - by) << 32) // by + 1, shift


@functools.lru_cache(1 << 12)
def _shape(J, I, channels, S, *more):
    """cuda.cu's Shape, or with what is more its Phase: one argument, for each of a kernel costs a microsecond."""
    numbers = np.array([*(n for by in (J, I, channels, S) for n in _divisor(by)), *more], np.int64).astype(np.int32)
    return numbers.view(f"V{numbers.nbytes}").reshape(())


def _run(kernel, which, size, K, groups, a, b, out, bias, relu, shape, split=True):
    """A product of (M,K) and (K,N) for each group, which lies along the last dimension of a and b; size (M,N)."""
    lines = [(array.shape[3], array.shape[3] // groups) for array in (a, b)]
    cut = products.cut(*size, K, groups, a, b, out, lines=lines, split=split)
    products.run("conv2d", kernel, cut, size, groups, a, b, out, bias, relu, shape, PASS=which)


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias, clipped at zero if `relu`; a bias of None is none."""
    _check(x, y)
    if _is_product(w.shape, geometry):
        matmul.times(_rows(x), w[0, 0], bias, relu, _rows(y))
        return
    stride, ((top, _), (left, _)), dilation, groups = geometry
    x, w = _padded(x, 3, groups), _padded(matmul.like(w, x), 2, groups)
    (N, H, W, _), (R, S, Cg, K), (P, Q) = x.shape, w.shape, y.shape[1:3]
    M, N = N * P * Q, K // groups
    shape = _shape(Q, P, Cg, S, M, H, W, groups, N, *stride, -top, -left, *dilation, R, S, 0, 0, 1, 1, P, Q, 1,
                   1, 0, 0)
    _run("convolve", FORWARD, (M, N), R * S * Cg, groups, x, w, y, bias, relu, shape)


def _phase(first, size, stride, before, window, dilation):
    """(positions, taps, first tap, where it looks, every, apart) of every stride-th pixel from `first` on.

    All along one axis. The taps are `every` so many, and look at pixels that are `apart` so many.
    """
    both = math.gcd(stride, dilation)
    every, positions = stride // both, -(-(size - first) // stride)
    tap = next((tap for tap in range(min(every, window)) if (first + before - tap * dilation) % stride == 0), window)
    look = (first + before - tap * dilation) // stride
    return positions, -(-(window - tap) // every), tap, look, every, dilation // both


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx: a convolution of dy, or one for each phase of the stride."""
    _check(dy, dx)
    if _is_product(w.shape, geometry):
        matmul.times_transposed(_rows(dy), w[0, 0], _rows(dx))
        return
    w = matmul.like(w, dy)
    (N, H, W, _), (R, S, Cg, K), (P, Q) = dx.shape, w.shape, dy.shape[1:3]
    (sh, sw), ((top, _), (left, _)), dilation, groups = geometry
    for y0, x0 in itertools.product(range(min(sh, H)), range(min(sw, W))):
        I, TR, r0, off_y, every_y, apart_y = _phase(y0, H, sh, top, R, dilation[0])
        J, TS, s0, off_x, every_x, apart_x = _phase(x0, W, sw, left, S, dilation[1])
        M, Kg = N * I * J, K // groups
        shape = _shape(J, I, Kg, max(TS, 1), M, P, Q, groups, Cg, 1, 1, off_y, off_x, -apart_y, -apart_x,
                       TR if TS else 0, S, r0, s0, every_y, every_x, H, W, sh, sw, y0, x0)
        _run("convolve", DGRAD, (M, Cg), TR * TS * Kg, groups, dy, w, dx, None, False, shape, split=(sh, sw) == (1, 1))


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw."""
    _check(x, dy)
    if _is_product(dw.shape, geometry):
        matmul.summed(_rows(x), _rows(dy), dw[0, 0])
        return
    stride, ((top, _), (left, _)), dilation, groups = geometry
    x = _padded(x, 3, groups)
    whole = dw if x.shape[3] == dw.shape[2] * groups else gpu.cupy().empty((*dw.shape[:2], x.shape[3], dw.shape[3]),
                                                                           dw.dtype)
    (H, W), (R, S, Cg, K), (N, P, Q, _) = x.shape[1:3], whole.shape, dy.shape
    M = N * P * Q
    shape = _shape(Q, P, Cg, S, M, H, W, groups, K // groups, *stride, -top, -left, *dilation, R)
    _run("weigh", WGRAD, (R * S * Cg, K // groups), M, groups, x, dy, whole, None, False, shape)
    if whole is not dw:
        dw[:] = whole[:, :, :dw.shape[2]]


def bias_grad(dy, db):
    """Sum of dy over all dimensions but the last, into db."""
    dy = _rows(dy)
    row_reduction.launch("conv2d", "bias_grad", (dy,), db, T=gpu.number(dy), PASS=BIAS)
