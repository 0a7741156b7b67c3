"""Every environment variable that kernels read, with its default and meaning."""

import os

VARIABLES = {
    "KERNELS_ISA": ("", "instruction set of the kernels: avx512, avx2 or plain; default: the best this processor has"),
    "KERNELS_NUM_THREADS": ("1", "threads of every kernel"),
    "KERNELS_WINOGRAD": ("1", "0 to convolve without transforms: slower, exact to 2e-6"),
}


def get(name):
    """The text of a variable, its default where it is not set or empty."""
    return os.environ.get(name) or VARIABLES[name][0]
