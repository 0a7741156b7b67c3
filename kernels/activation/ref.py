"""Rectifiers and dropout, written out."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: the increment of SplitMix64


def relu(x):
    """max(x, 0); NaN stays NaN."""
    return np.maximum(x, 0)


def relu_backward(dy, y):
    """dy where y > 0, else 0."""
    return np.where(y > 0, dy, np.zeros_like(dy))


def bias_relu_backward(dy, y):
    """(dx, db): the gradient by x and by b of y = relu(x + b)."""
    dx = relu_backward(dy, y)
    return dx, dx.reshape(-1, dx.shape[-1]).sum(0)


def _tanh(x):
    """(tanh u, du/dx) with u = sqrt(2/pi) (x + 0.044715 x^3)."""
    slope = np.sqrt(2 / np.pi)
    return np.tanh(slope * (x + 0.044715 * x**3)), slope * (1 + 3 * 0.044715 * x**2)


def gelu(x):
    """x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3)."""
    return x * (1 + _tanh(x)[0]) / 2


def gelu_backward(dy, x):
    """dy times the derivative of x (1 + tanh u) / 2."""
    tanh, slope = _tanh(x)
    return dy * ((1 + tanh) / 2 + x * (1 - tanh**2) * slope / 2)


def mix(z):
    """The output function of SplitMix64 (Steele, Lea and Flood 2014; constants by Stafford, variant 13)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seed, first, count):
    """`count` integers in [0, 2^32): SplitMix64 from element `first` on, its state begun at mix(seed).

    Mixing the seed first keeps the streams of seeds that differ by GOLDEN from being one another's, shifted.
    """
    counter = np.arange(count, dtype=np.uint64) + np.uint64(first)
    state = mix(np.array([seed], np.uint64)) + GOLDEN * (counter + np.uint64(1))
    return mix(state) >> np.uint64(32)


def dropout(x, rate, seed, first):
    """(y, mask): what uniform numbers of at least rate * 2^32 keep, scaled."""
    mask = (uniform(seed, first, x.size) >= round(rate * 2**32)).astype(np.uint8).reshape(x.shape)
    return dropout_backward(x, mask, rate), mask


def dropout_backward(dy, mask, rate):
    """dy * mask / (1 - rate): scaled, so that the expectation is dy."""
    return dy * mask / (1 - rate)
