"""Where kernels are checked: in the memory of this computer, or on the GPU in one of its precisions."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kernels import gpu


def _same(array):
    return array


class CheckTarget(NamedTuple):
    """x(array) takes an activation there, w(array) weights and whatever else; rounded(array) is what x keeps of it."""

    x: Callable = _same
    w: Callable = _same
    rounded: Callable = _same


HOST = CheckTarget()


def on_gpu(dtype=np.float32):
    """The GPU, with activations of that dtype: float32 or bfloat16."""
    def put(array):
        return gpu.cupy().asarray(array.astype(dtype))

    return CheckTarget(put, gpu.cupy().asarray, lambda array: array.astype(dtype).astype(np.float32))
