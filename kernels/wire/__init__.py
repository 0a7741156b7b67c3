"""What gradients go through between ranks: rounding to bfloat16 and back, and sums in the order of ranks.

    x, out (n,) float32 or uint16, which holds bfloat16's bits: the upper half of a float32's
    parts (P,n) of either: a row for each rank        error (n,) float32: what rounding has lost so far

All arrays are NumPy's, or all on the GPU, where a denormal sum counts as zero.
"""

import numpy as np

from kernels.arguments import implementation, is_array, overlap, require, writeable


def _vector(operation, name, value, dtype):
    """Raise ValueError unless it is a contiguous (n,) array of that dtype. It is never copied: others write to it."""
    good = is_array(value) and value.dtype == dtype and value.ndim == 1 and value.flags.c_contiguous
    require(good, operation, "{} must be a contiguous (n) {} array", name, np.dtype(dtype))


def _result(operation, name, value, dtype, size):
    _vector(operation, name, value, dtype)
    require(writeable(value) and value.size == size, operation,
            "{} must be writeable and have {} numbers, got {}", name, size, value)


def encode_bfloat16(x, out, error=None):
    """out = x (float32) rounded to bfloat16 (uint16): to nearest, ties to even; what is too large to infinity.

    With `error`, which changes in place, x + error is rounded, and error is what that loses, or 0 where the rounded
    number is not finite (error feedback: Seide et al. 2014, Karimireddy et al. 2019). NaN stays NaN. Raises
    ValueError for arrays of other types, of different sizes, or that overlap.
    """
    operation = "encode_bfloat16"
    _vector(operation, "x", x, np.float32)
    _result(operation, "out", out, np.uint16, x.size)
    kernel = implementation(__name__, operation, x, out, error)
    apart(operation, x, out)
    if error is not None:
        _result(operation, "error", error, np.float32, x.size)
        apart(operation, x, error)
        apart(operation, error, out)
    if x.size:
        kernel.encode_bfloat16(x, out) if error is None else kernel.encode_with_feedback(x, out, error)


def decode_bfloat16(x, out):
    """out (float32) = the numbers whose bfloat16 bits are x (uint16). Raises ValueError as encode_bfloat16 does."""
    _vector("decode_bfloat16", "x", x, np.uint16)
    _result("decode_bfloat16", "out", out, np.float32, x.size)
    kernel = implementation(__name__, "decode_bfloat16", x, out)
    apart("decode_bfloat16", x, out)
    if x.size:
        kernel.decode_bfloat16(x, out)


def apart(operation, x, out):
    """Raise ValueError if two arrays may share memory."""
    require(not overlap(x, out), operation, "the arrays must not overlap")


def ordered_sum(parts, out):
    """out (n,) = ((parts[0] + parts[1]) + parts[2]) + ... in float32, of parts (P,n); if they are bfloat16, rounded at
    the end.

    The bits do not depend on how the gradient is cut into messages. Raises ValueError for anything but P >= 1
    contiguous rows of float32 or uint16 and an `out` like one of them.
    """
    good = is_array(parts) and parts.dtype in (np.float32, np.uint16) and parts.ndim == 2
    require(good and len(parts) and parts.flags.c_contiguous, "ordered_sum",
            "parts must be a contiguous (P,n) float32 or uint16 array of at least one row")
    _result("ordered_sum", "out", out, parts.dtype, parts.shape[1])
    kernel = implementation(__name__, "ordered_sum", parts, out)
    apart("ordered_sum", parts, out)
    if out.size:
        kernel.ordered_sum(parts, out)


def ordered_sum_address(dtype):
    """Address of a C function that does what ordered_sum does without Python, so without its global lock.

        void f(int64 parts, int64 P, int64 n, int64 stride, int64 out, int64 copies)

    parts and out are addresses of this computer's memory, not the GPU's; row p begins `stride` bytes, a multiple of the
    item size, after row p - 1. The sum is written to so many rows from `out` on, as far apart; where these are rows of
    the parts, it takes their place. Raises ValueError unless dtype is float32 or uint16.
    """
    from kernels.wire import cpu

    dtype = np.dtype(dtype)
    require(dtype in (np.float32, np.uint16), "ordered_sum_address", "expected float32 or uint16, got {}", dtype)
    return cpu.ordered_sum_address(dtype)


def bfloat16_op_address():
    """Address of an MPI_User_function that adds bfloat16: the sum in float32, rounded once."""
    from kernels.wire import cpu

    return cpu.bfloat16_op_address()
