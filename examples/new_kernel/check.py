"""Both passes of the leaky rectifier, each with the reference's result in float64."""

import numpy as np

from kernels.check_target import HOST, Bound

from . import leaky_relu, leaky_relu_backward, ref

BOUND = Bound(cpu=1e-7)  # of the largest value: one multiplication is rounded


def passes_of(case, some, target=HOST):
    """Yield (pass, result, reference) for a case.

    some(shape) draws a float32 array; target.x puts it where the kernels work, here or on the GPU.
    """
    x, dy = some(case.shape), some(case.shape)
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    yield "leaky_relu", leaky_relu(target.x(x), case.slope), ref.leaky_relu(x64, case.slope)
    yield ("leaky_relu_backward", leaky_relu_backward(target.x(dy), target.x(x), case.slope),
           ref.leaky_relu_backward(dy64, x64, case.slope))
