"""Normalization and its gradient, each with the reference's result in float64."""

import numpy as np

from kernels.check_target import HOST, Bound
from kernels.norm import lrn, lrn_backward, ref

BOUND = Bound()


def passes(x, dy, size, alpha, beta, k, target=HOST):
    """Yield (pass, result, reference)."""
    x64, dy64, constants = x.astype(np.float64), dy.astype(np.float64), (size, alpha / size, beta, k)
    x, dy = map(target.x, (x, dy))
    y, y64 = lrn(x, size, alpha, beta, k), ref.lrn(x64, *constants)
    yield "lrn", y, y64
    yield ("lrn_backward", lrn_backward(dy, x, y, size, alpha, beta, k),
           ref.lrn_backward(dy64, x64, y64, *constants))


def passes_of(case, some, target=HOST):
    """The same for two images of a case at most; `some` makes an array of a shape."""
    shape = (min(case.shape[0], 2), *case.shape[1:])
    return passes(some(shape), some(shape), case.size, case.alpha, case.beta, case.k, target)
