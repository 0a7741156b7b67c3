"""Layer normalization (Ba, Kiros and Hinton 2016).

    x, y (M,C)   mean, rstd (M,)   gamma, beta (C,)   rstd = 1 / sqrt(variance + eps)

M samples or tokens, C channels, over which the mean and the variance (divided by C) of each are taken; all arrays are
float32, or x, y and their gradients all bfloat16. There C is at most 8192, or 4096 unless all arrays lie at
multiples of 16 bytes and their rows, too. Every function raises ValueError, naming the operation and the shapes, for
anything that does not fit.
"""

from kernels.arguments import ACTIVATION, implementation, output, overlap, require, tensor


def _vectors(operation, size, axis, **values):
    for name, value in values.items():
        values[name] = tensor(operation, name, value, axis)
        require(value.size == size, operation, "{} must have {}={} values, has {}", name, axis, size, value.size)
    return values.values()


def _same(out, dy):
    """Whether both arrays begin at one address."""
    return type(out) is type(dy) and overlap(out.reshape(-1)[:1], dy.reshape(-1)[:1])


def layernorm(x, gamma, beta, *, eps=1e-5, out=None):
    """(y (M,C), mean (M,), rstd (M,)) with y = gamma * (x - mean) * rstd + beta; y into `out` if given, apart from x.

    y has the dtype of x (M,C), float32 or bfloat16; all else is float32. Raises ValueError for anything that
    does not fit.
    """
    x = tensor("layernorm", "x", x, "MC", ACTIVATION)
    vectors = _vectors("layernorm", x.shape[1], "C", gamma=gamma, beta=beta)
    kernel = implementation(__name__, "layernorm", x, *vectors)
    y = output("layernorm", out, x.shape, x.dtype, like=x, apart=[x])
    return y, *kernel.layernorm(x, *vectors, float(eps), y)


def layernorm_backward(dy, x, mean, rstd, gamma, *, out=None, dgamma=None, dbeta=None):
    """(dx (M,C), dgamma (C,), dbeta (C,)): gradients by x, gamma and beta, from dy and x (M,C), mean and rstd (M,).

    dx has the dtype of dy and x, float32 or bfloat16; all else is float32. Into `out`, which may be dy,
    dgamma and dbeta if given. Raises ValueError for anything that does not fit.
    """
    operation = "layernorm_backward"
    dy = tensor(operation, "dy", dy, "MC", ACTIVATION)
    x = tensor(operation, "x", x, "MC", dy.dtype)
    require(dy.shape == x.shape, operation, "dy {} and x {} must agree", dy, x)
    M, C = x.shape
    vectors = *_vectors(operation, M, "M", mean=mean, rstd=rstd), *_vectors(operation, C, "C", gamma=gamma)
    kernel = implementation(__name__, operation, dy, x, *vectors)
    dx = output(operation, out, x.shape, x.dtype, like=x, apart=[x] if _same(out, dy) else [dy, x])
    dgamma = output(operation, dgamma, (C,), like=x, apart=[dx])
    dbeta = output(operation, dbeta, (C,), like=x, apart=[dx, dgamma])
    kernel.layernorm_backward(dy, x, *vectors, dx, dgamma, dbeta)
    return dx, dgamma, dbeta
