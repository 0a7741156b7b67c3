"""Some steps of the update, each array with the reference's result."""

import numpy as np

from kernels.update import momentum_update, ref

STEPS = 5
RATES = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def passes(w, g, v, dtype=np.float64):
    """Yield (pass, result, reference in that precision)."""
    wanted, w, v = (w.astype(dtype), v.astype(dtype)), w.copy(), v.copy()
    for _ in range(STEPS):
        momentum_update(w, g, v, **RATES)
        wanted = ref.momentum_update(wanted[0], g, wanted[1], *map(dtype, RATES.values()))
    yield "momentum_update w", w, wanted[0]
    yield "momentum_update v", v, wanted[1]


def passes_of(case, some):
    """The same for a million parameters of a case at most; `some` makes an array of a shape."""
    return passes(*some((3, min(case.size, 1 << 20))))
