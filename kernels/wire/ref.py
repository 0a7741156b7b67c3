"""The wire in NumPy, from what bfloat16 is: a sign, 8 bits of exponent, 7 of fraction. Slow, and the oracle."""

import numpy as np


def decode_bfloat16(bits):
    """The numbers, float64, that bfloat16's bits stand for."""
    bits = bits.astype(np.int64)
    exponent, fraction = bits >> 7 & 0xFF, bits & 0x7F
    finite = np.ldexp(fraction + 128.0 * (exponent > 0), np.maximum(exponent, 1) - 134)
    special = np.where(fraction > 0, np.nan, np.inf)
    return np.where(bits >> 15, -1.0, 1.0) * np.where(exponent == 255, special, finite)


def encode_bfloat16(x):
    """The nearer of a float32's two neighbours, the even one of two as near; infinity counts as 2^128."""
    low = (x.view(np.uint32) >> 16).astype(np.uint16)  # towards zero
    high = low + np.uint16(1)
    a, b = (np.abs(np.nan_to_num(decode_bfloat16(part & 0x7FFF), posinf=2.0**128)) for part in (low, high))
    size = np.abs(x.astype(np.float64))
    up = (b - size < size - a) | ((b - size == size - a) & (low % 2 == 1))
    return np.where(np.isfinite(x), np.where(up, high, low), np.where(np.isnan(x), low | 0x40, low)).astype(np.uint16)


def feedback(x, error):
    """(bits, new error) of x + error."""
    value = x + error
    bits = encode_bfloat16(value)
    sent = decode_bfloat16(bits).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return bits, np.where(np.isfinite(sent), value - sent, np.float32(0))


def ordered_sum(parts):
    """((p0 + p1) + p2) + ..., in the precision of the parts."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
