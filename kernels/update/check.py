"""Some steps of each update, each array with the reference's result."""

import numpy as np

from kernels.check_target import HOST, Bound
from kernels.update import adamw_update, compensate_delay, extrapolate, momentum_update, ref, sum_of_squares

BOUND = Bound()
STEPS = 5
RATES = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
ADAM = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.1}


def passes(w, g, v, dtype=np.float64, target=HOST, **more):
    """Yield (pass, result, reference in that precision); `more`: scale and late."""
    wanted = w.astype(dtype), v.astype(dtype)
    w, there, v = target.w(w.copy()), target.w(g), target.w(v.copy())
    for _ in range(STEPS):
        momentum_update(w, there, v, **RATES, **more)
        wanted = ref.momentum_update(wanted[0], g, wanted[1], *map(dtype, RATES.values()), **more)
    name = " ".join(("momentum_update", *more))
    yield f"{name} w", w, wanted[0]
    yield f"{name} v", v, wanted[1]


def adam_passes(w, g, target=HOST):
    """Yield (pass, result, reference) of some steps of AdamW, from moments of zero."""
    wanted = w.astype(np.float64), 0.0, 0.0
    w, there, m, v = target.w(w.copy()), target.w(g), target.w(np.zeros_like(w)), target.w(np.zeros_like(w))
    for step in range(1, STEPS + 1):
        adamw_update(w, there, m, v, **ADAM, step=step, scale=0.5, late=2)
        wanted = ref.adamw_update(wanted[0], g, *wanted[1:], *ADAM.values(), step, 0.5, 2)
    for name, got, want in zip("wmv", (w, m, v), wanted, strict=True):
        yield f"adamw_update {name}", got, want


def passes_of(case, some, target=HOST):
    """The same for a million parameters of a case at most; `some` makes an array of a shape."""
    w, g, v = some((3, min(case.size, 1 << 20)))
    yield from passes(w, g, v, target=target)
    yield from passes(w, g, v, target=target, scale=0.3, late=2)
    yield from adam_passes(w, g, target)
    moved = target.w(g.copy())
    compensate_delay(moved, target.w(w), target.w(v), 0.5)
    yield "compensate_delay", moved, ref.compensate_delay(g.astype(np.float64), w, v, 0.5)
    moved = target.w(w.copy())
    extrapolate(moved, target.w(v), 2.0)
    yield "extrapolate", moved, ref.extrapolate(w.astype(np.float64), v, 2.0)
    squares = np.array([sum_of_squares(target.w(g))], np.float32)
    yield "sum_of_squares", squares, np.square(g, dtype=np.float64).sum(keepdims=True)
