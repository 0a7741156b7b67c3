"""What an optimiser does to the weights, in one pass over memory.

    w, g, v, m (size,) float32: weights, gradient and its running moments; all but g change in place
    g may be bfloat16, or uint16 with its bits: a sum as it came from other ranks
    rounded (size,) bfloat16, or uint16 with its bits: w, to the nearest, for products that read it

The GPU's results have the CPU's bits, but denormal numbers count as zero there.
"""

import math

import numpy as np

from kernels.arguments import array, implementation, require, tensor, writeable

SHORT = {(name, dtype) for name in ("g", "rounded") for dtype in ("uint16", "bfloat16")}


def _dtype(name, value):
    """What the array of that name must have: its own dtype, if it may be bfloat16's bits."""
    found = getattr(value, "dtype", np.dtype(object))
    return found if (name, found.name) in SHORT else np.dtype(np.uint16 if name == "rounded" else np.float32)


def _check(operation, **arrays):
    """The room's module for these arrays. Raises ValueError unless they fit; None is no array."""
    arrays = {name: value for name, value in arrays.items() if value is not None}
    for name, value in arrays.items():
        tensor(operation, name, value, "i", _dtype(name, value))
        require(value.flags.c_contiguous and (name == "g" or writeable(value)), operation,
                "{} must be contiguous, and all but g writeable: they are changed in place", name)
        require(value.shape == arrays["w"].shape, operation, "w {} and {} {} must have one size", arrays["w"], name,
                value)
    return implementation(__name__, operation, *arrays.values())


def _float32(*constants):
    """Python floats as kernels take them."""
    return map(np.float32, constants)


def momentum_update(w, g, v, *, lr, momentum=0.0, weight_decay=0.0, scale=1.0, late=0, rounded=None):
    """v = momentum * v + u;  w = w - v  with u = lr * (scale * g + weight_decay * w), as in Caffe's solver.

    For a gradient that is D = `late` steps late w = w - momentum^D v - (1 - momentum^D) / (1 - momentum) u: u brings
    along what its momentum would have moved since (Kosson et al. 2021, spike compensation). Every element is rounded
    alike, so the result does not depend on how the parameters are grouped. Raises ValueError for arrays that are not
    float32, contiguous and of one size, and for a momentum that is not less than 1 with `late`.
    """
    kernel = _check("momentum_update", w=w, g=g, v=v, rounded=rounded)
    require(late == 0 or momentum < 1, "momentum_update", "momentum must be less than 1, got {!r}", momentum)
    old = momentum**late
    new = (1 - old) / (1 - momentum) if late else 0.0
    kernel.momentum_update(w, g, v, rounded, *_float32(lr, momentum, weight_decay, scale, old, new))


def adamw_update(w, g, m, v, *, lr, step, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, scale=1.0, late=0,
                 rounded=None):
    """Update number `step`, from 1, of Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    m = beta1 m + (1 - beta1) scale g;  v = beta2 v + (1 - beta2) (scale g)^2;
    w = w - lr (n / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay w)  with n = m, or for a
    gradient that is D = `late` steps late n = beta1^D m + (1 - beta1^D) scale g, as in momentum_update. Raises
    ValueError as that does, and for a step below 1.
    """
    kernel = _check("adamw_update", w=w, g=g, m=m, v=v, rounded=rounded)
    require(step >= 1, "adamw_update", "step must be at least 1, got {!r}", step)
    second, old = math.sqrt(1 - beta2**step), beta1**late  # the corrections of both moments go into the rate and eps
    rate = lr * second / (1 - beta1**step)
    constants = _float32(rate, lr * weight_decay, beta1, beta2, eps * second, scale, old, 1 - old)
    kernel.adamw_update(w, g, m, v, rounded, *constants)


def compensate_delay(g, w, then, factor):
    """g = g + factor g^2 (w - then), in place: a gradient taken at `then` as it might be at w now.

    First-order Taylor with g^2 for the diagonal of the Hessian (Zheng et al. 2017, equation 10). Raises ValueError for
    arrays that are not float32, contiguous and of one size.
    """
    kernel = _check("compensate_delay", w=w, g=g, then=then)
    require(writeable(g), "compensate_delay", "g must be writeable: it is changed in place")
    kernel.compensate_delay(g, w, then, np.float32(factor))


def extrapolate(w, new, factor, *, rounded=None):
    """w = new + factor (new - w): from weights w and what an update made of them, as `factor` more such would go on.

    Raises ValueError for arrays that are not float32, contiguous and of one size.
    """
    kernel = _check("extrapolate", w=w, new=new, rounded=rounded)
    kernel.extrapolate(w, new, rounded, np.float32(factor))


def sum_of_squares(x):
    """The sum of the squares of an array of any shape, a float, added in double precision.

    x is float32, bfloat16, or uint16 with its bits. On the GPU this waits for the result. Raises ValueError for another
    dtype.
    """
    x = array("sum_of_squares", "x", x, _dtype("g", x))
    return implementation(__name__, "sum_of_squares", x).sum_of_squares(x.reshape(-1))
