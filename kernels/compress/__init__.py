"""Compression of gradients: to the values of largest magnitude, or to two thin factors of a matrix.

    gradient, error (size,) or (n,m) float32: what is to be sent, and what earlier messages have left out
    packed (2k,) int32: indices of k values, then the bits of these float32      P (n,r)  Q (r,m) float32: factors

All arrays of a call are NumPy's, or but for lowrank_orthonormalize on the GPU, where denormal numbers count as zero.
"""

import numpy as np

from kernels import gpu
from kernels.arguments import implementation, is_array, require, writeable


def _check(operation, axes, dtype=np.float32, **arrays):
    """All contiguous, writeable, and of that dtype and number of dimensions."""
    for name, value in arrays.items():
        good = is_array(value) and value.dtype == dtype and value.ndim == 1 + axes.count(",")
        require(good and value.size and value.flags.c_contiguous and writeable(value), operation,
                "{} must be a writeable, contiguous, not empty ({}) {} array", name, axes, np.dtype(dtype))


def topk_encode(gradient, error, packed):
    """error += gradient; its k values of largest magnitude move to packed (2k,), indices ascending, and leave zeros.

    Largest to bfloat16's precision: of values with the same upper 16 bits the first ones are taken. NaN counts as
    largest. packed and error add up to the sum, bit by bit (Aji and Heafield 2017; Stich et al. 2018). Raises
    ValueError for arrays that do not fit, and unless 1 <= k <= size.
    """
    operation = "topk_encode"
    _check(operation, "size", gradient=gradient, error=error)
    _check(operation, "2k", np.int32, packed=packed)
    require(gradient.shape == error.shape, operation, "gradient {} and error {} must have one size", gradient, error)
    require(packed.size % 2 == 0 and packed.size // 2 <= error.size, operation,
            "packed {} must have two words for each of at most {} numbers", packed, error.size)
    implementation(__name__, operation, gradient, error, packed).topk_encode(gradient, error, packed)


def topk_decode(packed, gradient):
    """gradient (size,) = the values of packed (P,2k) at their indices, added up in the order of rows, and 0 elsewhere.

    Raises ValueError for arrays that do not fit and for indices outside. On the GPU values with such indices are left
    out, and the indices of a row must differ.
    """
    _check("topk_decode", "P,2k", np.int32, packed=packed)
    _check("topk_decode", "size", gradient=gradient)
    indices = packed[:, :packed.shape[1] // 2]
    good = gpu.is_array(packed) or (indices.min() >= 0 and indices.max() < gradient.size)
    require(packed.shape[1] % 2 == 0 and good, "topk_decode",
            "packed {} must have two words for each number, and indices in 0..{}", packed, gradient.size - 1)
    implementation(__name__, "topk_decode", packed, gradient).topk_decode(packed, gradient)


def _factors(operation, gradient, P, Q, **like):
    _check(operation, "n,m", gradient=gradient, **like)
    _check(operation, "n,r", P=P)
    _check(operation, "r,m", Q=Q)
    fits = (P.shape[0], Q.shape[1], P.shape[1]) == (*gradient.shape, Q.shape[0])
    require(fits and all(other.shape == gradient.shape for other in like.values()), operation,
            "gradient {}, P {} and Q {} must be (n,m), (n,r) and (r,m)", gradient, P, Q)


def lowrank_project(gradient, error, Q, P):
    """gradient += error; error = 0; P = gradient Q^T (Vogels et al. 2019, PowerSGD, algorithm 1).

    Raises ValueError for arrays that do not fit.
    """
    _factors("lowrank_project", gradient, P, Q, error=error)
    implementation(__name__, "lowrank_project", gradient, error, Q, P).lowrank_project(gradient, error, Q, P)


def lowrank_orthonormalize(gradient, P, Q):
    """Orthonormalize P's columns in place (one that vanishes becomes 0); Q = P^T gradient. NumPy's arrays only.

    Raises ValueError for arrays that do not fit.
    """
    _factors("lowrank_orthonormalize", gradient, P, Q)
    require(not any(map(gpu.is_array, (gradient, P, Q))), "lowrank_orthonormalize",
            "the arrays must be NumPy's: between two messages nothing runs on the GPU")
    implementation(__name__, "lowrank_orthonormalize", gradient, P, Q).lowrank_orthonormalize(gradient, P, Q)


def lowrank_orthonormalize_address():
    """Address of a C function that does what lowrank_orthonormalize does without Python, so without its global lock.

        void f(int64 table, int64 rows)      table: address of rows of int64: gradient, n, m, P, Q (addresses), r
    """
    from kernels.compress import cpu

    return cpu.orthonormalize_function().address


def lowrank_expand(gradient, error, P, Q, ranks):
    """M = P Q; error += gradient - M / ranks; gradient = M: every rank is taken to have sent an equal part of M.

    Raises ValueError for arrays that do not fit.
    """
    _factors("lowrank_expand", gradient, P, Q, error=error)
    kernel = implementation(__name__, "lowrank_expand", gradient, error, P, Q)
    kernel.lowrank_expand(gradient, error, P, Q, 1 / ranks)
