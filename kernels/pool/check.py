"""Pooling and its gradient, each with the reference's result in float64."""

import numpy as np

from kernels.check_target import HOST, Bound
from kernels.pool import avgpool2d, avgpool2d_backward, maxpool2d, maxpool2d_backward, ref
from kernels.pool.geometry import axes

BOUND = Bound()


def max_passes(x, some, target=HOST, **arguments):
    """Yield (pass, result, reference); `some` makes an array of a shape."""
    windows = axes("check", x.shape, **arguments)
    y, index = maxpool2d(target.x(x), **arguments)
    y64, index64 = ref.maxpool2d(x.astype(np.float64), *windows)
    yield "maxpool2d", y, y64
    yield "maxpool2d index", index, index64
    dy = some(y.shape)
    yield ("maxpool2d_backward", maxpool2d_backward(target.x(dy), index, x.shape, **arguments),
           ref.maxpool2d_backward(dy.astype(np.float64), index64, x.shape, *windows))


def avg_passes(x, some, target=HOST, **arguments):
    """Yield (pass, result, reference); `some` makes an array of a shape."""
    windows = axes("check", x.shape, **arguments)
    y = avgpool2d(target.x(x), **arguments)
    yield "avgpool2d", y, ref.avgpool2d(x.astype(np.float64), *windows)
    dy = some(y.shape)
    yield ("avgpool2d_backward", avgpool2d_backward(target.x(dy), x.shape, **arguments),
           ref.avgpool2d_backward(dy.astype(np.float64), x.shape, *windows))


def passes_of(case, some, target=HOST):
    """The same for two images of a case at most."""
    passes = max_passes if case.kind == "max" else avg_passes
    return passes(some((min(case.shape[0], 2), *case.shape[1:])), some, target, window=case.window, stride=case.stride,
                  padding=case.padding, ceil_mode=case.ceil_mode)
