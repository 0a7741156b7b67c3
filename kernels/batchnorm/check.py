"""All passes of batch normalization, each with the reference's result in float64."""

import numpy as np

from kernels.batchnorm import (
    batchnorm,
    batchnorm_dgrad,
    batchnorm_running,
    batchnorm_statistics,
    batchnorm_wgrad,
    ref,
)
from kernels.check_target import HOST, Bound
from kernels.gpu import fetch

BOUND = Bound()
EPS = 1e-5


def passes(x, gamma, beta, add, dy, target=HOST):
    """Yield (pass, result, reference); with and without what may follow."""
    C = x.shape[-1]
    x64, add64, dy64 = (a.reshape(-1, C).astype(np.float64) for a in (x, add, dy))
    gamma64, beta64 = gamma.astype(np.float64), beta.astype(np.float64)
    x, add, gamma, beta = *map(target.x, (x, add)), *map(target.w, (gamma, beta))
    mean, var = batchnorm_statistics(x)
    mean64, var64 = ref.statistics(x64)
    yield "mean", mean, mean64
    yield "var", var, var64
    statistics = [fetch(a).astype(np.float64) for a in (mean, var)]  # rounded: one row would show nothing but that
    yield from _running(mean, var, statistics, len(x64), target)
    for more, relu in ((None, False), (add, True)):
        name = " + add, relu" if relu else ""
        y = batchnorm(x, mean, var, gamma, beta, eps=EPS, add=more, relu=relu)
        y64 = ref.batchnorm(x64, *statistics, gamma64, beta64, EPS, None if more is None else add64, relu)
        yield "batchnorm" + name, y.reshape(-1, C), y64
        masked, masked64 = target.x(dy.copy()), dy64 * (fetch(y).reshape(-1, C) > 0) if relu else dy64
        dgamma, dbeta = batchnorm_wgrad(masked, x, mean, var, eps=EPS, y=y if relu else None)
        want = ref.wgrad(masked64, x64, *statistics, EPS)
        yield "dgamma" + name, dgamma, want[0]
        yield "dbeta" + name, dbeta, want[1]
        yield "dy" + name, masked.reshape(-1, C), masked64
        if len(x64) > 1:  # of one row the gradient is 0, and what is found is rounding
            dx = batchnorm_dgrad(masked, x, mean, var, gamma, dgamma, dbeta, eps=EPS)
            yield "batchnorm_dgrad" + name, dx.reshape(-1, C), ref.dgrad(masked64, x64, *statistics, gamma64, EPS)


def _running(mean, var, statistics, count, target):
    """The first step, in which the batch is all there is, and a later one."""
    for steps, name in ((0, "running"), (20, "running, later")):
        state64 = np.arange(steps, steps + 1.0 + 2 * mean.size) / 10
        state64[0] = steps
        state = target.w(state64.copy())
        batchnorm_running(state, mean, var, count=count, momentum=0.1)
        yield name, fetch(state).astype(np.float32), ref.running(state64, *statistics, count, 0.1)


def passes_of(case, some, target=HOST):
    """The same for four images of a case at most; `some` makes an array of a shape."""
    shape = (min(case.shape[0], 4), *case.shape[1:])
    return passes(some(shape), some(shape[-1]), some(shape[-1]), some(shape), some(shape), target)
