"""All passes of a dense layer, each with the reference's result in float64."""

import numpy as np

from kernels.check_target import HOST, PRODUCTS
from kernels.conv2d import bias_grad
from kernels.dense import dense, dense_dgrad, dense_wgrad, ref

BOUND = PRODUCTS


def passes(x, w, b, dy, target=HOST):
    """Yield (pass, result, reference)."""
    x64, w64, b64, dy64 = (array.astype(np.float64) for array in (x, w, b, dy))
    x, dy, w, b = *map(target.x, (x, dy)), target.factor(w), target.w(b)
    yield "dense", dense(x, w), ref.dense(x64, w64, None)
    yield "dense + b", dense(x, w, b), ref.dense(x64, w64, b64)
    yield "dense + b, relu", dense(x, w, b, relu=True), ref.dense(x64, w64, b64, relu=True)
    yield "dense_dgrad", dense_dgrad(dy, w), ref.dense_dgrad(dy64, w64)
    yield "dense_wgrad", dense_wgrad(x, dy), ref.dense_wgrad(x64, dy64)
    yield "bias_grad", bias_grad(dy), dy64.sum(0)


def passes_of(case, some, target=HOST):
    """The same for two samples of a case; `some` makes an array of a shape."""
    x, w, y = case.shapes(2)
    return passes(some(x), some(w), some(y[1]), some(y), target)
