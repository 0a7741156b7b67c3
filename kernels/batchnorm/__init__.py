"""Batch normalization (Ioffe and Szegedy 2015), with what follows it in a residual net: addition and rectifier.

    x, y, add (...,C)   mean, var, gamma, beta (C,)   M rows: all but the last dimension

    y = relu(gamma * (x - mean) / sqrt(var + eps) + beta + add)

All arrays are float32. Statistics come in and go out, so that they may be of this batch, of the batches of several
ranks, or running ones. Every function raises ValueError, naming the operation and the shapes, for anything that does
not fit.
"""

import numpy as np

from kernels.arguments import array, output, require, tensor
from kernels.batchnorm import cpu


def _rows(operation, name, value):
    """The array as (M,C)."""
    value = array(operation, name, value)
    require(value.ndim > 1, operation, "{} must be (...,C), got {}", name, value)
    return value.reshape(-1, value.shape[-1])


def _like(operation, name, value, x):
    value = array(operation, name, value)
    require(value.shape == x.shape, operation, "{} {} and x {} must agree", name, value, x)
    return _rows(operation, name, value)


def _channels(operation, x, **values):
    for name, value in values.items():
        tensor(operation, name, value, "C")
        require(value.shape == x.shape[-1:], operation, "{} must have C={} values, has {}", name, x.shape[-1],
                value.size)
    return values.values()


def _rstd(var, eps):
    return 1 / np.sqrt(var.astype(np.float64) + eps)


def batchnorm_statistics(x):
    """(mean (C,), var (C,)): of every channel over all rows; the variance is divided by M."""
    return cpu.statistics(_rows("batchnorm_statistics", "x", x))


def batchnorm(x, mean, var, gamma, beta, *, eps=1e-5, add=None, relu=False, out=None):
    """The normalized y, of x's shape, with these statistics; into `out` if given, apart from x and `add`."""
    rows = _rows("batchnorm", "x", x)
    mean, var, gamma, beta = _channels("batchnorm", x, mean=mean, var=var, gamma=gamma, beta=beta)
    more = None if add is None else _like("batchnorm", "add", add, x)
    y = output("batchnorm", out, x.shape, apart=[rows] if more is None else [rows, more])
    cpu.normalize(rows, mean, np.float32(gamma * _rstd(var, eps)), beta, more, relu, y.reshape(rows.shape))
    return y


def batchnorm_wgrad(dy, x, mean, var, *, eps=1e-5, y=None, dgamma=None, dbeta=None):
    """(dgamma (C,), dbeta (C,)): sums over the rows of dy (x - mean) / sqrt(var + eps) and of dy.

    With `y`, what a rectifier made of it, dy becomes 0 in place where y is: then it is the gradient of `add`, too.
    """
    masked = _like("batchnorm_wgrad", "dy", dy, x)
    require(y is None or (np.may_share_memory(masked, dy) and masked.flags.writeable), "batchnorm_wgrad",
            "dy must be contiguous and writeable: it is changed in place")
    rows, y = _rows("batchnorm_wgrad", "x", x), None if y is None else _like("batchnorm_wgrad", "y", y, x)
    mean, var = _channels("batchnorm_wgrad", x, mean=mean, var=var)
    dgamma = output("batchnorm_wgrad", dgamma, mean.shape)
    dbeta = output("batchnorm_wgrad", dbeta, mean.shape, apart=[dgamma])
    product, total = cpu.sums(masked, y, rows, mean)
    dgamma[:], dbeta[:] = product * _rstd(var, eps), total
    return dgamma, dbeta


def batchnorm_dgrad(dy, x, mean, var, gamma, dgamma, dbeta, *, eps=1e-5, count=None, out=None):
    """Gradient by x, where mean and var are statistics of x: its own, or with others' of `count` rows in all.

    dgamma and dbeta are sums over all those rows, dy is what batchnorm_wgrad left. Into `out` if given, apart from x.
    """
    rows, flat = _like("batchnorm_dgrad", "dy", dy, x), _rows("batchnorm_dgrad", "x", x)
    mean, var, gamma, dgamma, dbeta = _channels("batchnorm_dgrad", x, mean=mean, var=var, gamma=gamma, dgamma=dgamma,
                                                dbeta=dbeta)
    count = len(flat) if count is None else count
    require(count >= len(flat), "batchnorm_dgrad", "count must be at least x's {} rows, got {!r}", len(flat), count)
    dx = output("batchnorm_dgrad", out, x.shape, apart=[flat, rows])
    rstd = _rstd(var, eps)
    scale = gamma * rstd
    slope, shift = -scale * rstd * dgamma / count, -scale * dbeta / count
    cpu.dgrad(rows, flat, mean, *map(np.float32, (scale, slope, shift)), dx.reshape(flat.shape))
    return dx
