"""Every way over the wire, each with the reference's result."""

import numpy as np

from kernels.wire import decode_bfloat16, encode_bfloat16, ordered_sum, ref


def decoded(bits):
    """The numbers, in an array of their own."""
    out = np.empty(bits.shape, np.float32)
    decode_bfloat16(bits, out)
    return out


def encoded(x, error=None):
    """The bits, in an array of their own."""
    out = np.empty(x.shape, np.uint16)
    encode_bfloat16(x, out, error)
    return out


def summed(parts):
    """The sum, in an array of its own."""
    out = np.empty(parts.shape[1:], parts.dtype)
    ordered_sum(parts, out)
    return out


def passes(parts, error):
    """Yield (pass, result, reference) for the gradients (P,n) of P ranks and an error (n,)."""
    bits, want = encoded(parts.reshape(-1)), ref.encode_bfloat16(parts)
    yield "encode_bfloat16", decoded(bits), ref.decode_bfloat16(want.reshape(-1))
    lost, (sent, left) = error.copy(), ref.feedback(parts[0], error)
    yield "encode_bfloat16 +error", decoded(encoded(parts[0], lost)), ref.decode_bfloat16(sent)
    yield "error feedback", lost, left
    yield "ordered_sum", summed(parts), ref.ordered_sum(parts)
    total = ref.encode_bfloat16(ref.ordered_sum(ref.decode_bfloat16(want).astype(np.float32)))
    yield "ordered_sum bfloat16", decoded(summed(want)), ref.decode_bfloat16(total)


def passes_of(case, some):
    """The same for a quarter million parameters of a case at most; `some` makes an array of a shape."""
    size = min(case.size, 1 << 18)
    yield from passes(some((case.ranks, size)), 1e-3 * some((size,)))
