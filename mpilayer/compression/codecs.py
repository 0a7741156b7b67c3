"""What numbers look like on their way: as they are, or in half the bytes."""

import numpy as np

import kernels
from kernels import gpu


class Float32:
    """The numbers themselves travel."""

    dtype = np.dtype(np.float32)

    @staticmethod
    def buffer(numbers):
        """What travels instead of `numbers` (n,) float32."""
        return numbers

    @staticmethod
    def encode(numbers, wire, error=None):
        """Before they travel; nothing to do where both are the same memory."""
        if gpu.address(wire) != gpu.address(numbers):
            wire[:] = numbers

    @staticmethod
    def decode(wire, numbers):
        """After it."""
        Float32.encode(wire, numbers)


class BFloat16:
    """Rounded to bfloat16, added in float32, rounded again; with an `error` (n,) float32, what the first rounding loses
    is added to the next numbers (Seide et al. 2014, error feedback).
    """

    dtype = np.dtype(np.uint16)

    @staticmethod
    def buffer(numbers):
        """Half the bytes: (n,) uint16 with bfloat16's bits."""
        if gpu.is_array(numbers):
            return np.zeros_like(numbers, dtype=np.uint16)
        return kernels.pages(numbers.size, np.uint16)

    @staticmethod
    def encode(numbers, wire, error=None):
        """Round."""
        kernels.encode_bfloat16(numbers, wire, error)

    @staticmethod
    def decode(wire, numbers):
        """Back to float32."""
        kernels.decode_bfloat16(wire, numbers)


CODECS = {"float32": Float32, "bfloat16": BFloat16}
