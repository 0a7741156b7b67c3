"""Every way over the wire, each with the reference's result."""

import numpy as np

from kernels import gpu
from kernels.check_target import HOST, Bound
from kernels.wire import decode_bfloat16, encode_bfloat16, ordered_sum, ref

BOUND = Bound()


def _empty(like, dtype):
    """An uninitialised array of that dtype and `like`'s shape, where `like` is."""
    return (gpu.cupy() if gpu.is_array(like) else np).empty(like.shape, dtype)


def decoded(bits):
    """decode_bfloat16 into a new array."""
    out = _empty(bits, np.float32)
    decode_bfloat16(bits, out)
    return out


def encoded(x, error=None):
    """encode_bfloat16 into a new array."""
    out = _empty(x, np.uint16)
    encode_bfloat16(x, out, error)
    return out


def summed(parts):
    """ordered_sum into a new array."""
    out = _empty(parts[0], parts.dtype)
    ordered_sum(parts, out)
    return out


def passes(parts, error, target=HOST):
    """Yield (pass, result, reference) for the gradients (P,n) of P ranks and an error (n,)."""
    want, (sent, left) = ref.encode_bfloat16(parts), ref.feedback(parts[0], error)
    total = ref.encode_bfloat16(ref.ordered_sum(ref.decode_bfloat16(want).astype(np.float32)))
    there, lost = target.w(parts), target.w(error.copy())
    yield "encode_bfloat16", decoded(encoded(there.reshape(-1))), ref.decode_bfloat16(want.reshape(-1))
    yield "encode_bfloat16 +error", decoded(encoded(there[0], lost)), ref.decode_bfloat16(sent)
    yield "error feedback", lost, left
    yield "ordered_sum", summed(there), ref.ordered_sum(parts)
    yield "ordered_sum bfloat16", decoded(summed(target.w(want))), ref.decode_bfloat16(total)


def passes_of(case, some, target=HOST):
    """The same for a quarter million parameters of a case at most; `some` makes an array of a shape."""
    size = min(case.size, 1 << 18)
    yield from passes(some((case.ranks, size)), 1e-3 * some((size,)), target)
