"""Dilated convolution without a stride, by transforms: as that of the images that every so many-th pixel makes.

Taps that are d pixels apart meet every d-th pixel. So each image becomes d x d smaller ones, whose taps are neighbours.
"""

import itertools
import math

from kernels import scratch
from kernels.conv2d import winograd
from kernels.conv2d.pixels import BORDERLESS

WASTE, WIDER = 1.3, 1.5  # times as many pixels may be computed: small images have borders, or end at different places


def _sizes(y_shape, dilation):
    """(rows, columns) of each of the smaller results."""
    return tuple(-(-size // apart) for size, apart in zip(y_shape[1:3], dilation, strict=True))


def wins(w_shape, y_shape, geometry):
    """Whether this is faster than the direct kernels."""
    stride, _, dilation, groups = geometry
    P, Q = _sizes(y_shape, dilation)
    cells = P * Q * dilation[0] * dilation[1]
    return (stride == (1, 1) and cells <= WASTE * y_shape[1] * y_shape[2]
            and winograd.wins(w_shape, stride, groups, P, Q))


def fits(dy_shape, w_shape, dx_shape, dilation):
    """Whether the gradient by the input is that of not too many more pixels than there are."""
    cells = math.prod((size + taps - 1) * apart for size, taps, apart in zip(
        _sizes(dy_shape, dilation), w_shape[:2], dilation, strict=True))
    return dilation == (1, 1) or cells <= WIDER * dx_shape[1] * dx_shape[2]


def _cells(size, apart, border):
    """Along one axis, for each of the smaller images: (its first pixel of the image, first and end of its own)."""
    for i in range(apart):
        first = max(0, -((i - border) // apart))
        pixel = first * apart + i - border
        yield pixel, first, first + len(range(pixel, size, apart))


def _each(image, small, dilation, border):
    """Yield the same pixels of an image and of the smaller ones (N,rows,columns,H,W,C)."""
    axes = (enumerate(_cells(*each)) for each in zip(image.shape[1:3], dilation, border, strict=True))
    for (i, (h, top, bottom)), (j, (v, left, right)) in itertools.product(*axes):
        yield image[:, h::dilation[0], v::dilation[1]], small[:, i, j, top:bottom, left:right]


def _room(name, image, sizes, dilation):
    """Memory for the smaller images."""
    return scratch.array(name, (len(image), *dilation, *sizes, image.shape[3]))


def _split(name, image, sizes, dilation, border):
    """The smaller images, of such sizes, with zeros where the image has no pixels."""
    small = _room(name, image, sizes, dilation)
    small[:] = 0
    for some, of in _each(image, small, dilation, border):
        of[:] = some
    return _flat(small)


def _flat(small):
    return small.reshape(-1, *small.shape[3:])


def _join(small, image, dilation, border):
    """Write the image that the smaller ones make."""
    for some, of in _each(image, small, dilation, border):
        some[:] = of


def _plan(w_shape, y_shape, geometry):
    """(sizes of the smaller images, of their results, dilation, border, geometry of each)."""
    _, ((top, _), (left, _)), dilation, _ = geometry
    sizes = _sizes(y_shape, dilation)
    inputs = tuple(size + taps - 1 for size, taps in zip(sizes, w_shape[:2], strict=True))
    return inputs, sizes, dilation, (top, left), geometry._replace(padding=BORDERLESS, dilation=(1, 1))


def forward(x, w, bias, relu, y, geometry):
    """y = conv(x, w) + bias; an empty bias is none."""
    inputs, results, dilation, border, each = _plan(w.shape, y.shape, geometry)
    small = _room("small y", y, results, dilation)
    winograd.forward(_split("small x", x, inputs, dilation, border), w, bias, relu, _flat(small), each)
    _join(small, y, dilation, (0, 0))


def dgrad(dy, w, dx, geometry):
    """Gradient by the input, into dx."""
    inputs, results, dilation, border, each = _plan(w.shape, dy.shape, geometry)
    small = _room("small x", dx, inputs, dilation)
    winograd.dgrad(_split("small y", dy, results, dilation, (0, 0)), w, _flat(small), each)
    _join(small, dx, dilation, border)


def wgrad(x, dy, dw, geometry):
    """Gradient by the weights, into dw."""
    inputs, results, dilation, border, each = _plan(dw.shape, dy.shape, geometry)
    winograd.wgrad(_split("small x", x, inputs, dilation, border), _split("small y", dy, results, dilation, (0, 0)), dw,
                   each)
