"""Layer normalization and its gradients, each with the reference's result in float64."""

import numpy as np

from kernels.check_target import HOST, Bound
from kernels.layernorm import layernorm, layernorm_backward, ref

BOUND = Bound()
EPS = 1e-5


def passes(x, gamma, beta, dy, target=HOST):
    """Yield (pass, result, reference)."""
    x64, gamma64, beta64, dy64 = (a.astype(np.float64) for a in (x, gamma, beta, dy))
    x, dy, gamma, beta = *map(target.x, (x, dy)), *map(target.w, (gamma, beta))
    y, mean, rstd = layernorm(x, gamma, beta, eps=EPS)
    for name, got, want in zip(("layernorm", "mean", "rstd"), (y, mean, rstd),
                               ref.layernorm(x64, gamma64, beta64, EPS), strict=True):
        yield name, got, want
    for name, got, want in zip(("layernorm_backward", "dgamma", "dbeta"),
                               layernorm_backward(dy, x, mean, rstd, gamma),
                               ref.layernorm_backward(dy64, x64, gamma64, EPS), strict=True):
        yield name, got, want


def passes_of(case, some, target=HOST):
    """The same for a case; `some` makes an array of a shape."""
    return passes(some((case.M, case.C)), some(case.C), some(case.C), some((case.M, case.C)), target)
