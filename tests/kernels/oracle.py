"""What kernels are held against: float64 within a bound, and finite differences."""

import numpy as np

from kernels.check_target import Bound

BOUND = Bound().cpu


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def close(got, want, name="", bound=BOUND):
    """Equal up to `bound` of the largest value."""
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=bound * np.abs(want).max(), err_msg=name)


def all_close(passes, bound=BOUND):
    """Every (pass, result, reference)."""
    for name, got, want in passes:
        close(got, want, name, bound)


def all_near(passes, bound):
    """Every (pass, result, reference) up to `bound`, or that of its largest value: sums may all but cancel."""
    for name, got, want in passes:
        np.testing.assert_allclose(got, want, rtol=0, atol=bound * max(1, np.abs(want).max()), err_msg=name)


def numeric_gradient(f, x, dy, eps=1e-6):
    """d(sum(f(x) * dy)) / dx by central differences, in float64."""
    x = np.array(x, np.float64)
    dx = np.empty_like(x)
    for i in np.ndindex(x.shape):
        at = x[i]
        x[i] = at + eps
        above = f(x)
        x[i] = at - eps
        dx[i] = np.sum((above - f(x)) * dy) / (2 * eps)
        x[i] = at
    return dx


def locked(array):
    """A copy that is read-only."""
    array = array.copy()
    array.flags.writeable = False
    return array
