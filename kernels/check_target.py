"""What every room's check.py is written with: the memory its kernels work in, and the errors they may make."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kernels import gpu


def _same(array):
    return array


class CheckTarget(NamedTuple):
    """Where kernels are checked: functions of a NumPy array.

    x         the array as activations are there: perhaps bfloat16
    factor    the array as weights that something is multiplied by: perhaps bfloat16, too
    w         the array as all else: of the same dtype
    rounded   what x keeps of it, a float32 NumPy array: the reference begins with the same numbers
    """

    x: Callable = _same
    factor: Callable = _same
    w: Callable = _same
    rounded: Callable = _same


HOST = CheckTarget()


def here(dtype):
    """This processor, with activations of that dtype: float32 or bfloat16."""
    def put(array):
        return array.astype(dtype)

    return CheckTarget(put, put, rounded=lambda array: array.astype(dtype).astype(np.float32))


def on_gpu(dtype=np.float32):
    """The GPU, with activations of that dtype: float32 or bfloat16."""
    def put(array):
        return gpu.cupy().asarray(array.astype(dtype))

    return CheckTarget(put, put, gpu.cupy().asarray, lambda array: array.astype(dtype).astype(np.float32))


class Bound(NamedTuple):
    """The largest error of a room's results: max |result - reference| / max |reference|.

    cpu        of Numba's kernels            gpu        of CUDA's
    tf32       of CUDA's under set_precision("tf32"); None for a room without matrix products: there it changes nothing
    bfloat16   of results in bfloat16, which are off by half of 2^-7 of themselves from rounding alone
    """

    cpu: float = 2e-6
    gpu: float = 2e-6
    tf32: float | None = None
    bfloat16: float = 4e-3

    def of(self, precision, result):
        """The one for a result: precision is cpu, or on the GPU float32, tf32 or bfloat16."""
        if result.dtype.name == "bfloat16":
            return self.bfloat16
        if precision == "cpu":
            return self.cpu
        return self.tf32 if precision == "tf32" and self.tf32 else self.gpu


# In float32 an accumulator of the GPU adds up to 9216 products, one of the CPU 1024; operands of tf32 are off by 2^-11.
PRODUCTS = Bound(gpu=5e-6, tf32=1e-3)
