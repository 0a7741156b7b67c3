"""Every environment variable that kernels read, with its default and meaning."""

import os
from collections.abc import Callable
from typing import NamedTuple

MOST_THREADS = 4 * (os.cpu_count() or 1)  # more only take turns


class Variable(NamedTuple):
    """Its default, meaning, and which texts it may have: a predicate, and the same in words."""

    default: str
    meaning: str
    valid: Callable = lambda text: True
    expected: str = "any text"


def one_of(*texts):
    """(predicate, words) of a variable that has one of these."""
    return lambda text: text in texts, f"one of {', '.join(texts)}"


def whole(least, most):
    """(predicate, words) of a variable that is a whole number."""
    return (lambda text: text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most,
            f"a whole number from {least} to {most:,}")


SWITCH = one_of("1", "0", "yes", "no", "on", "off", "true", "false")
VARIABLES = {
    "KERNELS_ISA": Variable("", "instruction set of the kernels: avx512, avx2 or plain; default: the best here"),
    "KERNELS_NUM_THREADS": Variable("1", "threads of every kernel", *whole(1, MOST_THREADS)),
    "KERNELS_WINOGRAD": Variable("1", "0 to convolve without transforms: slower, exact to 2e-6", *SWITCH),
}


def value(name, variables):
    """The text of a variable, its default where it is not set or empty. Raises ValueError for what it may not be."""
    known = variables[name]
    text = os.environ.get(name) or known.default
    if text != known.default and not known.valid(text):
        raise ValueError(f"{name}={text}: expected {known.expected}")
    return text


def is_on(name):
    """Whether a SWITCH is on; anything but a word for off counts as on where nobody checks it."""
    return (os.environ.get(name) or VARIABLES[name].default).lower() not in ("0", "no", "off", "false")


def get(name):
    """The text of one of these. Raises ValueError for what it may not be."""
    return value(name, VARIABLES)
