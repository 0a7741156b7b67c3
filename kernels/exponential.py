"""Exponentials, and a row's maximum and sum, as vector code: what softmax is made of."""

import numpy as np

from kernels import compiled

inner = compiled.part(fastmath={"contract"})
any_order = compiled.part(fastmath={"reassoc"})

ONE, ZERO = np.float32(1), np.float32(0)
LOG2E, ROUND = np.float32(1.4426950408889634), np.float32(1.5 * 2**23)  # what is added to that is rounded to an int
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440054690583e-4)  # high * any exponent is exact
SMALLEST = np.float32(-87.3365)  # below this exp is no normal number
EXPONENT_OF_ONE, NUMBER = np.int32(127 << 23), np.int32(2**31 - 1)  # all bits but the sign
C2, C3, C4, C5, C6 = map(np.float32, (0.49999994, 0.1666652, 0.0416684, 0.008368852, 0.001381432))


@inner
def exp(x):
    """e^x to 2 ulp for x up to 88; zero where it would be denormal.

    2^n e^r with n whole and |r| <= ln 2 / 2: e^r is a polynomial, nearly minimax, and n goes into the exponent's bits.
    """
    shifted = np.float32(x * LOG2E + ROUND)
    n = shifted - ROUND
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    e = ((((C6 * r + C5) * r + C4) * r + C3) * r + C2) * (r * r) + r + ONE
    power = np.int32((shifted.view(np.int32) << 23) + EXPONENT_OF_ONE).view(np.float32)
    return ZERO if x < SMALLEST else e * power


@inner
def _key(bits):
    """Orders the bits of floats as ints, and its own inverse: only for ints is a maximum vector code."""
    return np.int32(bits ^ ((bits >> 31) & NUMBER))


@inner
def row_max(x):
    """The largest element of a vector; a NaN may be that or be passed over."""
    most = _key(np.float32(-np.inf).view(np.int32))
    for c in range(x.size):
        most = max(most, _key(np.float32(x[c]).view(np.int32)))
    return np.int32(_key(most)).view(np.float32)


@any_order
def row_sum(x):
    """The sum of a vector, in any order."""
    result = ZERO
    for c in range(x.size):
        result += x[c]
    return result
