"""Every pass of SiLU, with the reference's result: `python -m examples.new_kernel.check`."""

import numpy as np

from examples.new_kernel import ref, silu, silu_backward
from examples.new_kernel.cases import CASES
from kernels.check import BOUND, error, normals


def passes_of(case, some):
    """Yield (pass, result, reference in float64); `some` makes an array of a shape."""
    x, dy = some(case.shape), some(case.shape)
    yield "silu", silu(x), ref.silu(x.astype(np.float64))
    yield "silu_backward", silu_backward(dy, x), ref.silu_backward(dy.astype(np.float64), x.astype(np.float64))


if __name__ == "__main__":
    for case in CASES:
        for name, got, want in passes_of(case, normals()):
            print(f"{case.name:20} {name:15} {error(got, want):.1e} of at most {BOUND:.1e}")
