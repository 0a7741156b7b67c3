"""Optimizers, layer by layer."""

import copy

import numpy as np

import kernels
from mpilayer.base.cli import Option, amount, below_one, number
from mpilayer.base.tracing import Trace

MOMENTUM = Option("momentum", "momentum", below_one, 0.9)
COMMON = (
    Option("weight_decay", "weight decay", amount, 5e-4),
    Option("clip", "largest norm of a step's gradient; longer ones are scaled (default: no limit)",
           number(float, 1e-30, "a positive number")),
    Option("delay_compensation", "delayed, ps: move late gradients towards what they would be now", amount, 0.0,
           metavar="FACTOR"),
    Option("momentum_correction", "delayed, ps: a late gradient brings along what its momentum would have moved since",
           bool, False),
)


class Optimizer:
    """What all optimizers share: the rate of a step, and how far its gradient is clipped.

    parameters            a net, mpilayer.Parameters, or whatever has `layers` with a name and flat weights `w`
    lr                    learning rate, or a function of the step that the gradient is from, however late applied
    clip                  largest norm that the mean gradient of a step may have, over all layers; None for no limit.
                          The request queue gives the norm, and waits for all of it
    momentum_correction   a gradient that is D steps late brings along what its momentum would have moved since (Kosson
                          et al. 2021, spike compensation; for D = 1 Nesterov's method, and with Adam Dozat's)
    delay_compensation    how far a late gradient is moved towards what it would be now (Zheng et al. 2017, DC-ASGD)
    """

    options = COMMON

    def __init__(self, parameters, lr, *, weight_decay=5e-4, clip=None, momentum_correction=False,
                 delay_compensation=0.0):
        self.rate = lr if callable(lr) else lambda step: lr
        self.weight_decay, self.clip = weight_decay, clip
        self.momentum_correction, self.delay_compensation = momentum_correction, delay_compensation
        self.trace, self.norm = Trace(keep=0), None
        self.prepare(parameters.layers)

    def attach(self, trace, norm):
        """Let updates be timed by a trace, and the norm of a step's gradient be norm(step)."""
        self.trace, self.norm = trace, norm
        return self

    def over(self, parts):
        """One like this for other memory, its state at the beginning."""
        other = copy.copy(self)
        other.prepare(parts)
        return other

    def update(self, layer, gradient, step, late=0, *, scale=1.0, share=1.0, weights_at_gradient=None):
        """Apply the effective batch's mean gradient of `step` to the layer's weights, `late` steps late.

        Or scale * gradient, as `share` of a step. `weights_at_gradient`: where it was taken, for the compensation.
        """
        if self.clip is not None:
            scale *= min(1.0, self.clip / max(self.norm(step), 1e-30))
        with self.trace.span("update", f"update {layer.name}"):
            if weights_at_gradient is not None:
                kernels.compensate_delay(gradient, layer.w, weights_at_gradient, self.delay_compensation * scale)
            self.apply(layer, gradient, lr=share * self.rate(step), scale=scale,
                       late=late if self.momentum_correction else 0, weight_decay=self.weight_decay)


class MomentumSGD(Optimizer):
    """v = momentum * v + rate(step) * (g + weight_decay * w);  w = w - v, layer by layer."""

    options = (MOMENTUM, *COMMON)

    def __init__(self, parameters, lr, *, momentum=0.9, **common):
        super().__init__(parameters, lr, **common)
        self.momentum = momentum

    def prepare(self, layers):
        """No velocity yet."""
        self.velocity = {layer.name: np.zeros_like(layer.w) for layer in layers}

    def apply(self, layer, gradient, **constants):
        """In place."""
        kernels.momentum_update(layer.w, gradient, self.velocity[layer.name], momentum=self.momentum, **constants)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); `momentum` is its beta1."""

    options = (MOMENTUM._replace(help="beta1"), Option("beta2", "beta2", below_one, 0.999),
               Option("epsilon", "epsilon", amount, 1e-8), *COMMON)

    def __init__(self, parameters, lr, *, momentum=0.9, beta2=0.999, epsilon=1e-8, **common):
        super().__init__(parameters, lr, **common)
        self.betas = {"beta1": momentum, "beta2": beta2, "eps": epsilon}

    def prepare(self, layers):
        """No moments yet."""
        self.moments = {layer.name: (np.zeros_like(layer.w), np.zeros_like(layer.w)) for layer in layers}
        self.updates = dict.fromkeys(self.moments, 0)

    def apply(self, layer, gradient, **constants):
        """In place."""
        self.updates[layer.name] += 1
        kernels.adamw_update(layer.w, gradient, *self.moments[layer.name], step=self.updates[layer.name],
                             **self.betas, **constants)


OPTIMIZERS = {"sgd": MomentumSGD, "adamw": AdamW}
