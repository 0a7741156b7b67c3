"""Layer normalization (Ba, Kiros and Hinton 2016).

    x, y (M,C)   mean, rstd (M,)   gamma, beta (C,)   rstd = 1 / sqrt(variance + eps)

M samples or tokens, C channels, over which the mean and the variance (divided by C) of each are taken; all arrays are
float32. Every function raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

import numpy as np

from kernels.arguments import output, require, tensor
from kernels.layernorm import cpu
from kernels.threads import share


def _vectors(operation, size, axis, **values):
    for name, value in values.items():
        tensor(operation, name, value, axis)
        require(value.size == size, operation, "{} must have {}={} values, has {}", name, axis, size, value.size)


def layernorm(x, gamma, beta, *, eps=1e-5, out=None):
    """(y, mean, rstd) with y = gamma * (x - mean) * rstd + beta, into `out` if given, apart from x."""
    x = tensor("layernorm", "x", x, "MC")
    _vectors("layernorm", x.shape[1], "C", gamma=gamma, beta=beta)
    y, (mean, rstd) = output("layernorm", out, x.shape, apart=[x]), np.empty((2, len(x)), np.float32)
    share(len(x), lambda a, b: cpu.layernorm(x[a:b], gamma, beta, np.float32(eps), y[a:b], mean[a:b], rstd[a:b]))
    return y, mean, rstd


def layernorm_backward(dy, x, mean, rstd, gamma, *, out=None, dgamma=None, dbeta=None):
    """(dx, dgamma, dbeta): gradients by x, gamma and beta; into `out`, which may be dy, and the others if given."""
    dy, x = (tensor("layernorm_backward", name, a, "MC") for name, a in (("dy", dy), ("x", x)))
    require(dy.shape == x.shape, "layernorm_backward", "dy {} and x {} must agree", dy, x)
    M, C = x.shape
    _vectors("layernorm_backward", C, "C", gamma=gamma)
    _vectors("layernorm_backward", M, "M", mean=mean, rstd=rstd)
    same = isinstance(out, np.ndarray) and out.ctypes.data == dy.ctypes.data
    dx = output("layernorm_backward", out, x.shape, apart=[x] if same else [dy, x])
    dgamma = output("layernorm_backward", dgamma, (C,), apart=[dx])
    dbeta = output("layernorm_backward", dbeta, (C,), apart=[dx, dgamma])
    sums = np.empty((-(-M // cpu.ROWS), 2, C), np.float32)
    given = None if same else dy
    share(len(sums), lambda a, b: cpu.layernorm_backward(given, x, mean, rstd, gamma, dx, sums, a, b))
    dgamma[:], dbeta[:] = sums.sum(0, dtype=np.float64)
    return dx, dgamma, dbeta
