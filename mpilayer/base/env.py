"""Every environment variable this project reads, with its default and meaning."""

import contextlib
import math

import kernels.env
from kernels.env import SWITCH, Variable, whole
from mpilayer.base.errors import UserError


def _seconds(text):
    with contextlib.suppress(ValueError):
        return math.isfinite(float(text)) and float(text) > 0
    return False


def _whole_or_auto(least, most):
    valid, expected = whole(least, most)
    return lambda text: text == "auto" or valid(text), f"auto, or {expected}"


VARIABLES = {
    **kernels.env.VARIABLES,
    "MPILAYER_CUDA_AWARE": Variable("1", "0 to sum gradients of GPUs here even if the MPI says that it can do so there",
                                    *SWITCH),
    "MPILAYER_PATIENCE": Variable("60", "seconds a rank waits for the others before it says so, once a wait", _seconds,
                                  "a positive number of seconds"),
    "MPILAYER_PROGRESS_US": Variable("auto", "least microseconds between calls that move messages while ranks compute;"
                                     " auto: by the link and the number of ranks", *_whole_or_auto(1, 1_000_000)),
    "NUMBA_CACHE_DIR": Variable("", "where compiled kernels are kept; default: next to the sources, else the user's"
                                " cache"),
}


def get(name):
    """The text of a variable. Raises UserError for what it may not be."""
    try:
        return kernels.env.value(name, VARIABLES)
    except ValueError as error:
        raise UserError(f"{error} | try: unset {name}") from None


def patience():
    """MPILAYER_PATIENCE in seconds; its default if it makes no sense, which `check` says to all ranks together."""
    with contextlib.suppress(UserError):
        return float(get("MPILAYER_PATIENCE"))
    return float(VARIABLES["MPILAYER_PATIENCE"].default)


def check():
    """Raise UserError if one of them is what it may not be."""
    for name in VARIABLES:
        get(name)
