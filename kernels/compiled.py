"""How functions are compiled: kept on disk, without Python's lock, and no code that nobody calls.

Decorators, with Numba's options such as `fastmath`:

    jit, inner = decorators()    of what Python calls, and of what only compiled functions call

Division by zero gives infinity or NaN, as in C: a division that may raise is no vector code.
"""

from numba import njit
from numba.extending import register_jitable

import kernels.cache  # noqa: F401 - before anything is compiled

COMMON = {"nogil": True, "cache": True, "error_model": "numpy", "no_cfunc_wrapper": True}


def kernel(**options):
    """A decorator for functions that Python calls."""
    return njit(**COMMON, **options)


def part(**options):
    """A decorator for functions that compiled ones call. Python runs them uncompiled: nothing is made for it, which is
    half of the work for small ones; and a constant argument is no type of its own.
    """
    return register_jitable(**COMMON, **options)


def decorators(**options):
    """(kernel, part), with the same options."""
    return kernel(**options), part(**options)
