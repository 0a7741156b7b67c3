"""Where a net computes, and in what numbers."""

import numpy as np

import kernels
from kernels import gpu

PRECISIONS = {"cpu": ("float32", "bfloat16"), "gpu": ("float32", "tf32", "bfloat16")}


def _bfloat16():
    try:
        return gpu.bfloat16()
    except ImportError:
        raise ValueError("bfloat16 needs ml_dtypes | try: pip install 'mpilayer[bfloat16]'") from None


class Memory:
    """Of a CPU or the current GPU. Weights, gradients and state are float32 there, `activations` perhaps bfloat16.

    Raises ValueError for a GPU that cannot be used, for a precision that the device does not have, and for bfloat16
    without ml_dtypes.
    """

    def __init__(self, device="cpu", precision="float32"):
        if precision not in PRECISIONS.get(device, ()):
            known = ", ".join(f"{name} in {' or '.join(kinds)}" for name, kinds in PRECISIONS.items())
            raise ValueError(f"no net computes on {device!r} in {precision!r}: choose {known}")
        self.on_gpu = device == "gpu"
        if self.on_gpu:
            if why := gpu.missing():
                raise ValueError(f"'gpu' cannot be used: {why}")
            gpu.set_precision("tf32" if precision == "tf32" else "float32")
        self.activations = _bfloat16() if precision == "bfloat16" else np.dtype(np.float32)

    @property
    def rounds(self):
        """Whether activations are bfloat16."""
        return self.activations != np.float32

    def put(self, array):
        """A NumPy array where the net computes; here, itself."""
        return gpu.cupy().asarray(array) if self.on_gpu else array

    def zeros(self, size, dtype=np.float32):
        """(size,) of a dtype."""
        return gpu.cupy().zeros(size, dtype) if self.on_gpu else kernels.pages(size, dtype)

    def flowing(self, x):
        """The array as a layer takes it; whole numbers, such as tokens, as they are."""
        return x if x.dtype.kind in "iu" or x.dtype == self.activations else x.astype(self.activations)


def beside(array, *numbers):
    """Float32 arrays of NumPy's numbers, where the array is."""
    found = [np.float32(each) for each in numbers]
    return [gpu.cupy().asarray(each) for each in found] if gpu.is_array(array) else found
