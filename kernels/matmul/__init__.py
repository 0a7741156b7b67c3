"""Products of matrices, or of batches of them.

    a (...,M,K)   b (...,K,N)   c (...,M,N)

M rows, N columns, sums of K products; all arrays are all float32 or all bfloat16, and a and b have the same
leading dimensions. Raises ValueError, naming the operation and the shapes, for anything that does not fit.
"""

from kernels import arguments
from kernels.arguments import ACTIVATION, array, implementation, require


def matmul(a, b, *, transpose_a=False, transpose_b=False, out=None):
    """c (...,M,N) = a (...,M,K) b (...,K,N); a transposed one is given as (...,K,M) or (...,N,K). Into `out` if given.

    All are all float32 or all bfloat16. Raises ValueError for other dtypes, and for shapes that do not agree.
    """
    a = array("matmul", "a", a, ACTIVATION)
    b = array("matmul", "b", b, a.dtype)
    fits = a.ndim == b.ndim >= 2 and a.shape[:-2] == b.shape[:-2]
    require(fits, "matmul", "a {} and b {} must be matrices, or batches of as many", a, b)
    M, K = a.shape[:-3:-1] if transpose_a else a.shape[-2:]
    depth, N = b.shape[:-3:-1] if transpose_b else b.shape[-2:]
    require(depth == K, "matmul", "a {} and b {} must agree in K, with transpose_a={} and transpose_b={}",
            a, b, transpose_a, transpose_b)
    kernel = implementation(__name__, "matmul", a, b)
    c = arguments.output("matmul", out, (*a.shape[:-2], M, N), a.dtype, like=a)
    flat = [matrices.reshape(-1, *matrices.shape[-2:]) for matrices in (a, b, c)]
    kernel.matmul(flat[0], transpose_a, flat[1], transpose_b, flat[2])
    return c
