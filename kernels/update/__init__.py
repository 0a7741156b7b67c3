"""What an optimiser does to the weights, in one pass over memory.

    w, g, v, m (size,) float32: weights, gradient and its running moments; all but g change in place
"""

from kernels.arguments import array, require, tensor
from kernels.update import cpu


def _check(operation, **arrays):
    for name, value in arrays.items():
        tensor(operation, name, value, "i")
        require(value.flags.c_contiguous and (name == "g" or value.flags.writeable), operation,
                "{} must be contiguous, and all but g writeable: they are changed in place", name)
        require(value.shape == arrays["w"].shape, operation, "w {} and {} {} must have one size", arrays["w"], name,
                value)


def momentum_update(w, g, v, *, lr, momentum=0.0, weight_decay=0.0, scale=1.0, late=0):
    """v = momentum * v + u;  w = w - v  with u = lr * (scale * g + weight_decay * w), as in Caffe's solver.

    For a gradient that is D = `late` steps late w = w - momentum^D v - (1 - momentum^D) / (1 - momentum) u: u brings
    along what its momentum would have moved since (Kosson et al. 2021, spike compensation). Every element is rounded
    alike, so the result does not depend on how the parameters are grouped. Raises ValueError for arrays that are not
    float32, contiguous and of one size, and for a momentum that is not less than 1 with `late`.
    """
    _check("momentum_update", w=w, g=g, v=v)
    require(late == 0 or momentum < 1, "momentum_update", "momentum must be less than 1, got {!r}", momentum)
    old = momentum**late
    new = (1 - old) / (1 - momentum) if late else 0.0
    cpu.momentum_update(w, g, v, lr, momentum, weight_decay, scale, old, new)


def adamw_update(w, g, m, v, *, lr, step, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, scale=1.0, late=0):
    """Update number `step`, from 1, of Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    m = beta1 m + (1 - beta1) scale g;  v = beta2 v + (1 - beta2) (scale g)^2;
    w = w - lr (n / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay w)  with n = m, or for a
    gradient that is D = `late` steps late n = beta1^D m + (1 - beta1^D) scale g, as in momentum_update. Raises
    ValueError as that does, and for a step below 1.
    """
    _check("adamw_update", w=w, g=g, m=m, v=v)
    require(step >= 1, "adamw_update", "step must be at least 1, got {!r}", step)
    cpu.adamw_update(w, g, m, v, lr, beta1, beta2, eps, weight_decay, step, scale, beta1**late)


def compensate_delay(g, w, then, factor):
    """g = g + factor g^2 (w - then), in place: a gradient taken at `then` as it might be at w now.

    First-order Taylor with g^2 for the diagonal of the Hessian (Zheng et al. 2017, equation 10). Raises ValueError for
    arrays that are not float32, contiguous and of one size.
    """
    _check("compensate_delay", w=w, g=g, then=then)
    require(g.flags.writeable, "compensate_delay", "g must be writeable: it is changed in place")
    cpu.compensate_delay(g, w, then, factor)


def sum_of_squares(x):
    """Of an array of any shape, a float, added in double precision."""
    return cpu.sum_of_squares(array("sum_of_squares", "x", x).reshape(-1))
