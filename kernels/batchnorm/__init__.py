"""Batch normalization (Ioffe and Szegedy 2015), with what follows it in a residual net: addition and rectifier.

    x, y, add (...,C)   mean, var, gamma, beta (C,)   M rows: all but the last dimension

    y = relu(gamma * (x - mean) / sqrt(var + eps) + beta + add)

All arrays are float32; x, y, add and their gradients may all be bfloat16. Statistics come in and go out, so
that they may be of this batch, of the batches of several ranks, or running ones. Every function raises ValueError,
naming the operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels.arguments import ACTIVATION, array, implementation, is_array, output, overlap, require, tensor, writeable


def _rows(operation, name, value):
    """The activation (...,C) as rows (M,C)."""
    value = array(operation, name, value, ACTIVATION)
    require(value.ndim > 1, operation, "{} must be (...,C), got {}", name, value)
    return value.reshape(-1, value.shape[-1])


def _like(operation, name, value, x):
    """The activation, of x's shape and dtype, as rows (M,C)."""
    value = array(operation, name, value, x.dtype)
    require(value.shape == x.shape, operation, "{} {} and x {} must agree", name, value, x)
    return value.reshape(-1, value.shape[-1])


def _channels(operation, C, **values):
    """Vectors of so many channels."""
    for name, value in values.items():
        values[name] = tensor(operation, name, value, "C")
        require(value.shape == (C,), operation, "{} must have C={} values, has {}", name, C, value.size)
    return values.values()


def batchnorm_statistics(x):
    """(mean (C,), var (C,)) float32: of every channel of x (...,C) over all rows; the variance is divided by M."""
    rows = _rows("batchnorm_statistics", "x", x)
    return implementation(__name__, "batchnorm_statistics", rows).statistics(rows)


def batchnorm_running(state, mean, var, *, count, momentum):
    """One step of running statistics: state (1 + 2C,) float64, changed in place, has steps, means and variances.

    mean and var (C,), float32 or both float64, are of a batch of `count` rows. They join with the weight `momentum`, in
    the first steps 1 / steps; the variance as that divided by count - 1.
    """
    operation, dtype = "batchnorm_running", np.float64 if is_array(mean) and mean.dtype == np.float64 else np.float32
    mean, var = tensor(operation, "mean", mean, "C", dtype), tensor(operation, "var", var, "C", dtype)
    require(mean.shape == var.shape, operation, "mean {} and var {} must agree", mean, var)
    require(count >= 1, operation, "count must be at least 1, got {!r}", count)
    kernel = implementation(__name__, operation, state, mean, var)
    kernel.running(output(operation, state, (1 + 2 * mean.size,), np.float64, like=mean), mean, var, count, momentum)


def batchnorm(x, mean, var, gamma, beta, *, eps=1e-5, add=None, relu=False, out=None):
    """y, of the shape and dtype of x (...,C), with the statistics mean and var (C,); gamma and beta are (C,) float32.

    `add` (...,C) is added before the rectifier, which `relu` asks for. Into `out` if given, apart from x and `add`.
    Raises ValueError for anything that does not fit.
    """
    rows = _rows("batchnorm", "x", x)
    vectors = _channels("batchnorm", x.shape[-1], mean=mean, var=var, gamma=gamma, beta=beta)
    more = None if add is None else _like("batchnorm", "add", add, x)
    kernel = implementation(__name__, "batchnorm", rows, more, *vectors)
    y = output("batchnorm", out, x.shape, x.dtype, like=x, apart=[rows] if more is None else [rows, more])
    kernel.normalize(rows, *vectors, float(eps), more, relu, y.reshape(rows.shape))
    return y


def batchnorm_wgrad(dy, x, mean, var, *, eps=1e-5, y=None, dgamma=None, dbeta=None):
    """(dgamma (C,), dbeta (C,)) float32: sums over the rows of dy (x - mean) / sqrt(var + eps), and of dy.

    With `y`, which a rectifier made, dy becomes 0 in place where y is 0: then it is the gradient of `add`, too. dy, x
    and y are (...,C) of one dtype. Into the arrays dgamma and dbeta if given. Raises ValueError for anything that does
    not fit.
    """
    rows = _rows("batchnorm_wgrad", "x", x)
    masked = _like("batchnorm_wgrad", "dy", dy, x)
    require(y is None or (overlap(masked, dy) and writeable(dy)), "batchnorm_wgrad",
            "dy must be contiguous and writeable: it is changed in place")
    y = None if y is None else _like("batchnorm_wgrad", "y", y, x)
    mean, var = _channels("batchnorm_wgrad", x.shape[-1], mean=mean, var=var)
    kernel = implementation(__name__, "batchnorm_wgrad", masked, rows, y, mean, var)
    dgamma = output("batchnorm_wgrad", dgamma, mean.shape, like=x)
    dbeta = output("batchnorm_wgrad", dbeta, mean.shape, like=x, apart=[dgamma])
    kernel.wgrad(masked, y, rows, mean, var, float(eps), dgamma, dbeta)
    return dgamma, dbeta


def batchnorm_dgrad(dy, x, mean, var, gamma, dgamma, dbeta, *, eps=1e-5, count=None, out=None):
    """dx (...,C), the gradient by x, where mean and var are statistics of x alone, or of `count` rows of which x has
    some.

    dgamma and dbeta (C,) are sums over all those rows, dy (...,C) is what batchnorm_wgrad left. Into `out` if given,
    apart from x and dy. Raises ValueError for anything that does not fit.
    """
    flat = _rows("batchnorm_dgrad", "x", x)
    rows = _like("batchnorm_dgrad", "dy", dy, x)
    vectors = _channels("batchnorm_dgrad", x.shape[-1], mean=mean, var=var, gamma=gamma, dgamma=dgamma, dbeta=dbeta)
    count = len(flat) if count is None else count
    require(count >= len(flat), "batchnorm_dgrad", "count must be at least x's {} rows, got {!r}", len(flat), count)
    kernel = implementation(__name__, "batchnorm_dgrad", rows, flat, *vectors)
    dx = output("batchnorm_dgrad", out, x.shape, x.dtype, like=x, apart=[flat, rows])
    kernel.dgrad(rows, flat, *vectors, float(eps), count, dx.reshape(flat.shape))
    return dx
