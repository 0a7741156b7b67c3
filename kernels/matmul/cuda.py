"""The three products of a layer, x w, dy w^T and x^T dy, and batches of matrices, on the GPU."""

import numpy as np

from kernels import gpu
from kernels.cuda import products

REGISTERS = 255
BUILDS = list(products.builds([{"A_BY_K": 1, "B_BY_K": 0}, {"A_BY_K": 1, "B_BY_K": 1},
                               {"A_BY_K": 0, "B_BY_K": 0, "O": "float"}]))


def like(array, x):
    """The array in x's dtype: itself, or a copy."""
    return array if array.dtype == x.dtype else array.astype(x.dtype)


def _product(a, a_by_k, b, b_by_k, c, bias=None, relu=False):
    """c (B,M,N) = a b + bias; a (B,M,K), or (B,K,M) unless by k, b (B,N,K), or (B,K,N) unless by k."""
    batches, M, N = c.shape
    K = a.shape[2] if a_by_k else a.shape[1]
    cut = products.cut(M, N, K, batches, a, b, c, lines=(a.shape[2:], b.shape[2:]), split=batches == 1)
    steps = (np.int64(array[0].size) for array in (a, b, c))
    products.run("matmul", "multiply", cut, (M, N), batches, a, b, c, bias, relu, M, N, K, *steps,
                 A_BY_K=int(a_by_k), B_BY_K=int(b_by_k))


def times(x, w, bias, relu, y):
    """y (M,K) = x (M,C) w (C,K) + bias, clipped at zero if `relu`; a bias of None is none."""
    _product(x[None], True, like(w, x)[None], False, y[None], bias, relu)


def times_transposed(x, w, y):
    """y (M,K) = x (M,C) w^T, w (K,C)."""
    _product(x[None], True, like(w, x)[None], True, y[None])


def summed(x, dy, dw):
    """dw (C,K) = x^T dy, x (M,C), dy (M,K)."""
    if dw.dtype != np.float32:
        whole = gpu.cupy().empty(dw.shape, np.float32)
        summed(x, dy, whole)
        dw[...] = whole
        return
    _product(x[None], False, dy[None], False, dw[None])


def matmul(a, transpose_a, b, transpose_b, c):
    """c (B,M,N) = a b, a (B,M,K) or (B,K,M) if transposed, b (B,K,N) or (B,N,K)."""
    _product(a, not transpose_a, b, transpose_b, c)
