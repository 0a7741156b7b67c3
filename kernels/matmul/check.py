"""All four ways to give two matrices, each with the reference's result in float64."""

import numpy as np

from kernels.check_target import HOST, PRODUCTS
from kernels.matmul import matmul, ref

BOUND = PRODUCTS
FLAGS = [(False, False), (False, True), (True, False), (True, True)]


def passes_of(case, some, target=HOST):
    """Yield (pass, result, reference); `some` makes an array of a shape."""
    for flags in FLAGS:
        a, b = map(some, case.shapes(*flags))
        names = " ".join(name + "^T" * flag for name, flag in zip("ab", flags, strict=True))
        got = matmul(target.x(a), target.x(b), transpose_a=flags[0], transpose_b=flags[1])
        yield names, got, ref.matmul(a.astype(np.float64), b.astype(np.float64), *flags)
