"""Learning rates: how they fall from step to step, after a linear warm-up."""

import math
from collections.abc import Callable
from typing import NamedTuple

from mpilayer.base.cli import Option, amount, count


class Policy(NamedTuple):
    """factor(step, steps, **options) is what the learning rate is multiplied by; the options are keyword arguments."""

    factor: Callable
    options: tuple = ()


def _fixed(step, steps):
    return 1.0


def _step(step, steps, lr_step=1000, lr_gamma=0.1):
    return lr_gamma ** (step // lr_step)


def _poly(step, steps, lr_power=0.5):
    return (1 - step / steps) ** lr_power


def _cosine(step, steps):
    return (1 + math.cos(math.pi * step / steps)) / 2


POLICIES = {
    "fixed": Policy(_fixed),
    "step": Policy(_step, (Option("lr_step", "steps between falls", count, 1000),
                           Option("lr_gamma", "factor of a fall", amount, 0.1))),
    "poly": Policy(_poly, (Option("lr_power", "1 - step / steps to this power", amount, 0.5),)),
    "cosine": Policy(_cosine),  # along half a cosine: Loshchilov and Hutter 2017
}


def learning_rate(lr, steps, policy="fixed", warmup=0, **options):
    """The learning rate as a function of the step: a policy, after a linear warm-up of so many steps."""
    factor = POLICIES[policy].factor

    def rate(step):
        warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return warm * (lr * factor(step, steps, **options))

    return rate
