"""Causal self-attention of several heads (Vaswani et al. 2017), without a T x T array in memory.

    qkv (N,T,3C)   y (N,T,C)   lse (N,heads,T)   C = heads * D

N sequences of T tokens; the last dimension of qkv holds the queries, keys and values of all heads, of head h those from
h * D of each. y[i] = sum over j <= i of softmax(q[i] k[j] / sqrt(D)) v[j], with a running maximum over blocks of keys
(Milakov and Gimelshein 2018; Dao et al. 2022); lse is the logarithm of the sum of the exponentials. lse is float32, all
others too, or all bfloat16. Every function raises ValueError, naming the operation and the shapes, for anything
that does not fit.
"""

import numpy as np

from kernels import gpu
from kernels.arguments import ACTIVATION, implementation, output, require, tensor

WIDEST = 128  # channels of a head on the GPU


def _qkv(operation, qkv, heads):
    qkv = tensor(operation, "qkv", qkv, ("N", "T", "3C"), ACTIVATION)
    good = isinstance(heads, int | np.integer) and heads >= 1 and qkv.shape[2] % (3 * heads) == 0
    require(good, operation, "heads must be a positive int, 3 * heads a divisor of the channels: qkv {}, heads {!r}",
            qkv, heads)
    D = qkv.shape[2] // 3 // heads
    require(D <= WIDEST or not gpu.is_array(qkv), operation,
            "on the GPU heads have at most {} channels, these have {}: qkv {}, take {} heads or more", WIDEST, D, qkv,
            -(-heads * D // WIDEST))
    return qkv, (*qkv.shape[:2], qkv.shape[2] // 3), (qkv.shape[0], int(heads), qkv.shape[1])


def attention(qkv, heads, out=None):
    """(y, lse): y (N,T,C) of qkv's dtype and lse (N,heads,T) float32, from qkv (N,T,3C).

    Into the pair `out` if given, apart from qkv. Raises ValueError for a qkv that is not float32 or
    bfloat16, unless heads divides C, and on the GPU for heads of more than 128 channels.
    """
    qkv, y_shape, lse_shape = _qkv("attention", qkv, heads)
    y, lse = (None, None) if out is None else out
    y = output("attention", y, y_shape, qkv.dtype, like=qkv, apart=[qkv])
    lse = output("attention", lse, lse_shape, like=qkv, apart=[qkv, y])
    implementation(__name__, "attention", qkv).forward(qkv, y, lse)
    return y, lse


def attention_backward(dy, qkv, y, lse, out=None):
    """dqkv (N,T,3C), the gradient by qkv, from dy and y (N,T,C) and lse (N,heads,T); scores are computed anew.

    dy, qkv, y and dqkv have one dtype, lse is float32. Into `out` if given, apart from all others. Raises ValueError
    for shapes and dtypes that do not agree.
    """
    lse = tensor("attention_backward", "lse", lse, ("N", "heads", "T"))
    qkv, y_shape, lse_shape = _qkv("attention_backward", qkv, lse.shape[1])
    dy, y = (tensor("attention_backward", name, a, "NTC", qkv.dtype) for name, a in (("dy", dy), ("y", y)))
    require(dy.shape == y.shape == y_shape and lse.shape == lse_shape, "attention_backward",
            "dy {}, y {}, lse {} and qkv {} must agree", dy, y, lse, qkv)
    kernel = implementation(__name__, "attention_backward", dy, qkv, y, lse)
    dqkv = output("attention_backward", out, qkv.shape, qkv.dtype, like=qkv, apart=[dy, qkv, y, lse])
    kernel.backward(dy, qkv, y, lse, dqkv)
    return dqkv
