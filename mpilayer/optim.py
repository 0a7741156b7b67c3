"""Momentum SGD and the learning-rate policies of Caffe's solver."""

import numpy as np

import kernels


def fixed(lr, step, steps, options):
    """Lr."""
    return lr


def step(lr, step, steps, options):
    """Lr times gamma at every `lr_step` steps."""
    return lr * options.lr_gamma ** (step // options.lr_step)


def poly(lr, step, steps, options):
    """From lr down to 0 at the last step, as (1 - step/steps) ** power."""
    return lr * (1 - step / steps) ** options.lr_power


POLICIES = {"fixed": fixed, "step": step, "poly": poly}


def learning_rate(options, steps):
    """The learning rate as a function of the step: a policy, after a linear warm-up of `options.warmup` steps."""
    policy = POLICIES[options.lr_policy]

    def rate(step):
        warm = min(1.0, (step + 1) / options.warmup) if options.warmup else 1.0
        return warm * policy(options.lr, step, steps, options)

    return rate


class MomentumSGD:
    """v = momentum * v + rate(step) * (g + weight_decay * w);  w = w - v, layer by layer.

    `step` is the step whose gradient it is, however late it is applied.
    """

    def __init__(self, layers, rate, trace, *, momentum, weight_decay):
        self.rate, self.trace, self.constants = rate, trace, {"momentum": momentum, "weight_decay": weight_decay}
        self.velocity = {layer.name: np.zeros_like(layer.w) for layer in layers}

    def update(self, layer, gradient, step):
        """Apply the effective batch's mean gradient of `step` to the layer's weights."""
        with self.trace.span("update", f"update {layer.name}"):
            kernels.momentum_update(layer.w, gradient, self.velocity[layer.name], lr=self.rate(step), **self.constants)
