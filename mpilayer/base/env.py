"""Every environment variable this project reads, with its default and meaning."""

import os

import kernels.env

VARIABLES = {
    **kernels.env.VARIABLES,
    "MPILAYER_CUDA_AWARE": ("1", "0 to sum gradients of GPUs here even if the MPI says that it can do so there"),
    "MPILAYER_PATIENCE": ("60", "seconds a rank waits for the others before it says so, once a wait"),
    "MPILAYER_PROGRESS_US": ("200", "microseconds between the calls that move messages while a kernel computes"),
    "NUMBA_CACHE_DIR": ("", "where compiled kernels are kept; default: next to the sources, else the user's cache"),
}


def get(name):
    """The value of a numeric variable as a float; its default if it is not a number."""
    default, _ = VARIABLES[name]
    try:
        return float(os.environ.get(name, default))
    except ValueError:
        return float(default)
