"""What an optimiser does to the weights, in one pass over memory.

    w, g, v (size,) float32: weights, gradient, velocity; w and v change in place
"""

from kernels.arguments import require, tensor
from kernels.update import cpu


def momentum_update(w, g, v, *, lr, momentum=0.0, weight_decay=0.0):
    """v = momentum * v + lr * (g + weight_decay * w);  w = w - v  (momentum SGD as Caffe's solver defines it).

    Every element is rounded alike, so the result does not depend on how the parameters are grouped. Raises ValueError
    for arrays that are not float32, contiguous and of one size.
    """
    for name, value in (("w", w), ("g", g), ("v", v)):
        tensor("momentum_update", name, value, "i")
        require(value.flags.c_contiguous and (name == "g" or value.flags.writeable), "momentum_update",
                "{} must be contiguous, and w and v writeable: they are changed in place", name)
    require(w.shape == g.shape == v.shape, "momentum_update",
            "w {}, g {} and v {} must have one size", w, g, v)
    cpu.momentum_update(w, g, v, lr, momentum, weight_decay)
