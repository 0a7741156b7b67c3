"""Optimisers, layer by layer, and the learning-rate policies."""

import copy
import math

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


def cosine(lr, step, steps, options):
    """From lr down to 0 at the last step, along half a cosine (Loshchilov and Hutter 2017)."""
    return lr * (1 + math.cos(math.pi * step / steps)) / 2


POLICIES = {"fixed": fixed, "step": step, "poly": poly, "cosine": cosine}


def learning_rate(options, steps):
    """The learning rate as a function of the step: a policy, after a linear warm-up of `options.warmup` steps."""
    policy = POLICIES[options.lr_policy]

    def rate(step):
        warm = min(1.0, (step + 1) / options.warmup) if options.warmup else 1.0
        return warm * policy(options.lr, step, steps, options)

    return rate


class Optimizer:
    """What all optimisers share: the rate of a step, and how far its gradient is clipped.

    `step` is the step whose gradient it is, however late it is applied. `clip`: the largest norm that the mean gradient
    of a step may have, over all layers; None for no limit. norm(step) gives it, and waits for all of it: a clipped step
    is applied when its last layer has arrived. `correction`: a gradient that is D steps late brings along what its
    momentum would have moved since (Kosson et al. 2021, spike compensation; for D = 1 Nesterov's method, and with Adam
    Dozat's). `compensation`: how far a late gradient is moved towards what it would be now (Zheng et al. 2017,
    DC-ASGD). `constants` are the kernel's.
    """

    def __init__(self, layers, rate, trace, *, clip=None, norm=None, correction=False, compensation=0.0, **constants):
        self.rate, self.trace, self.clip, self.norm, self.constants = rate, trace, clip, norm, constants
        self.correction, self.compensation = correction, compensation
        self.prepare(layers)

    def over(self, parts):
        """One like this for other memory, its state at the beginning."""
        other = copy.copy(self)
        other.prepare(parts)
        return other

    def update(self, layer, gradient, step, late=0, *, scale=1.0, share=1.0, then=None):
        """Apply the effective batch's mean gradient of `step` to the layer's weights, `late` steps late.

        Or scale * gradient, as `share` of a step. `then`: the weights it was taken at, for the compensation.
        """
        if self.clip is not None:
            scale *= min(1.0, self.clip / max(self.norm(step), 1e-30))
        with self.trace.span("update", f"update {layer.name}"):
            if then is not None:
                kernels.compensate_delay(gradient, layer.w, then, self.compensation * scale)
            self.apply(layer, gradient, lr=share * self.rate(step), scale=scale, late=late if self.correction else 0,
                       **self.constants)


class MomentumSGD(Optimizer):
    """v = momentum * v + rate(step) * (g + weight_decay * w);  w = w - v, layer by layer."""

    def prepare(self, layers):
        """No velocity yet."""
        self.velocity = {layer.name: np.zeros_like(layer.w) for layer in layers}

    def apply(self, layer, gradient, **constants):
        """In place."""
        kernels.momentum_update(layer.w, gradient, self.velocity[layer.name], **constants)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    def prepare(self, layers):
        """No moments yet."""
        self.moments = {layer.name: (np.zeros_like(layer.w), np.zeros_like(layer.w)) for layer in layers}
        self.updates = dict.fromkeys(self.moments, 0)

    def apply(self, layer, gradient, **constants):
        """In place."""
        self.updates[layer.name] += 1
        kernels.adamw_update(layer.w, gradient, *self.moments[layer.name], step=self.updates[layer.name], **constants)


OPTIMIZERS = {"sgd": MomentumSGD, "adamw": AdamW}


def optimizer(layers, rate, trace, norm, options):
    """The optimiser that the options ask for."""
    constants = {"clip": options.clip, "norm": norm, "weight_decay": options.weight_decay,
                 "correction": options.momentum_correction, "compensation": options.delay_compensation}
    if options.optimizer == "sgd":
        constants |= {"momentum": options.momentum}
    else:
        constants |= {"beta1": options.momentum, "beta2": options.beta2, "eps": options.epsilon}
    return OPTIMIZERS[options.optimizer](layers, rate, trace, **constants)
