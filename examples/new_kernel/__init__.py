"""Leaky rectifier (Maas, Hannun and Ng 2013): an operation of one's own, made like those in kernels/.

    y = x where x > 0, else slope * x        dx = dy where x > 0, else slope * dy

    python -m kernels.check examples/new_kernel

This file has the signatures: it checks what comes from outside, so that the kernels need not. ref.py has the operation
in NumPy, cpu.py in Numba; cases.py has shapes, and check.py compares the two on each. A cuda.py beside cpu.py, with
functions of the same names and arguments, would take arrays on the GPU.
"""

import numpy as np

from kernels.arguments import array, implementation, output, require


def leaky_relu(x, slope=0.01, out=None):
    """y, of the shape and dtype of x, a float32 array of any shape; into `out` if given, which may be x itself.

    Raises ValueError for another dtype, and for an `out` that does not fit.
    """
    x = array("leaky_relu", "x", x)
    y = output("leaky_relu", out, x.shape, like=x)
    implementation(__name__, "leaky_relu", x).leaky_relu(x.reshape(-1), np.float32(slope), y.reshape(-1))
    return y


def leaky_relu_backward(dy, x, slope=0.01, out=None):
    """dx, the gradient by x, from dy; both float32 and of one shape. Into `out` if given, which may be dy itself.

    Raises ValueError for other dtypes, for shapes that differ, and for an `out` that does not fit.
    """
    operation = "leaky_relu_backward"
    dy, x = array(operation, "dy", dy), array(operation, "x", x)
    require(dy.shape == x.shape, operation, "dy {} and x {} must agree", dy, x)
    dx = output(operation, out, x.shape, like=x)
    kernel = implementation(__name__, operation, dy, x)
    kernel.leaky_relu_backward(dy.reshape(-1), x.reshape(-1), np.float32(slope), dx.reshape(-1))
    return dx
