"""Rectifiers and dropout, each with the reference's result in float64."""

import numpy as np

from kernels.activation import (
    add,
    bias_relu_backward,
    dropout,
    dropout_backward,
    gelu,
    gelu_backward,
    ref,
    relu,
    relu_backward,
)
from kernels.check_target import HOST, Bound

BOUND = Bound()


def passes(x, dy, rate, seed, first, target=HOST):
    """Yield (pass, result, reference)."""
    x64, dy64, y64 = x.astype(np.float64), dy.astype(np.float64), ref.relu(x.astype(np.float64))
    x, dy = map(target.x, (x, dy))
    y = relu(x)
    yield "relu", y, y64
    yield "relu_backward", relu_backward(dy, y), ref.relu_backward(dy64, y64)
    yield "add", add(x, dy), x64 + dy64
    if x.ndim:
        dx, db = bias_relu_backward(dy, y)
        dx64, db64 = ref.bias_relu_backward(dy64, y64)
        yield "bias_relu_backward", dx, dx64
        yield "bias_relu_backward db", db, db64
    y, mask = dropout(x, rate, seed=seed, first=first)
    y64, mask64 = ref.dropout(x64, rate, seed, first)
    yield "dropout", y, y64
    yield "dropout mask", mask, mask64
    yield "dropout_backward", dropout_backward(dy, mask, rate), ref.dropout_backward(dy64, mask64, rate)


def gelu_passes(x, dy, target=HOST):
    """Yield (pass, result, reference) of gelu and its gradient."""
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    x, dy = map(target.x, (x, dy))
    yield "gelu", gelu(x), ref.gelu(x64)
    yield "gelu_backward", gelu_backward(dy, x), ref.gelu_backward(dy64, x64)


def passes_of(case, some, target=HOST):
    """Both for two samples of a case at most; `some` makes an array of a shape."""
    shape = tuple(min(size, 2) if axis == 0 else size for axis, size in enumerate(case.shape))
    x, dy = some(shape), some(shape)
    yield from passes(x, dy, 0.5, 7, 0, target)
    yield from gelu_passes(x, dy, target)
