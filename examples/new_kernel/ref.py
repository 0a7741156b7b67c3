"""SiLU in NumPy, in whatever precision it is given: what the kernel is compared with."""

import numpy as np


def silu(x):
    """x / (1 + exp(-x))."""
    return x / (1 + np.exp(-x))


def silu_backward(dy, x):
    """dy times the derivative by x: s (1 + x (1 - s)), with s = 1 / (1 + exp(-x))."""
    s = 1 / (1 + np.exp(-x))
    return dy * s * (1 + x * (1 - s))
