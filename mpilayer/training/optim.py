"""Optimizers, layer by layer."""

import copy

import numpy as np

import kernels
from mpilayer.base.cli import FLOAT32, Option, amount, below_one, number
from mpilayer.base.tracing import Trace

MOMENTUM = Option("momentum", "momentum", below_one, 0.9)
COMMON = (
    Option("weight_decay", "weight decay", amount, 5e-4),
    Option("clip", "largest norm of a step's gradient; longer ones are scaled (default: no limit)",
           number(float, 1e-30, "a positive number", FLOAT32)),
    Option("delay_compensation", "move late gradients towards what they would be now", amount, 0.0, metavar="FACTOR",
           late=True),
    Option("momentum_correction", "a late gradient brings along what its momentum would have moved since", bool, False,
           late=True),
)


class Optimizer:
    """What all optimizers share: the learning rate of a step, clipping, and corrections for late gradients.

    parameters            a net, Parameters, or whatever has `layers` with a name and flat weights `w`
    lr                    learning rate, or a function from a step to it: the step in which the gradient was taken
    weight_decay          what is added to the gradient for each unit of weight; AdamW decouples it
    clip                  largest norm over all layers of a step's mean gradient, a longer one is scaled; None: no
                          limit. The norm comes from the gradient queue, which waits for all layers
    momentum_correction   a gradient that is applied D steps late also makes the moves that its momentum would have
                          made meanwhile (Kosson et al. 2021, spike compensation; for D = 1 Nesterov's method, and with
                          Adam Dozat's)
    delay_compensation    factor by which a late gradient is moved towards what it would be at today's weights (Zheng
                          et al. 2017, DC-ASGD); 0: not at all
    """

    options, keeps = COMMON, None

    def __init__(self, parameters, lr, *, weight_decay=5e-4, clip=None, momentum_correction=False,
                 delay_compensation=0.0):
        self.rate = lr if callable(lr) else lambda step: lr
        self.weight_decay, self.clip = weight_decay, clip
        self.momentum_correction, self.delay_compensation = momentum_correction, delay_compensation
        self.trace, self.norm = Trace(keep=0), None
        self.prepare(parameters.layers)

    def attach(self, trace, norm):
        """Let a Trace time the updates, and norm(step) give the norm of a step's gradient; the optimizer itself."""
        self.trace, self.norm = trace, norm
        return self

    def over(self, parts):
        """A new optimizer with the same settings for other memory: `parts` are layers with a name and flat `w`."""
        other = copy.copy(self)
        other.prepare(parts)
        return other

    def update(self, layer, gradient, step, late=0, *, scale=1.0, share=1.0, weights_at_gradient=None):
        """Change a layer's weights by the gradient that was taken in `step`.

        layer                 has a name and flat weights `w` (n,) float32, which change in place, and perhaps
                              `rounded` (n,), the same in bfloat16
        gradient              (n,) float32, the effective batch's mean; it may be overwritten. Or uint16 with the bits
                              of bfloat16, without delay_compensation
        late                  how many steps ago it would have been due
        scale                 factor of the gradient
        share                 what part of a step this is: a factor of the learning rate
        weights_at_gradient   (n,) float32, the weights at which it was taken, for delay_compensation
        """
        if self.clip is not None:
            scale *= min(1.0, self.clip / max(self.norm(step), 1e-30))
        with self.trace.span("update", f"update {layer.name}"):
            if weights_at_gradient is not None:
                kernels.compensate_delay(gradient, layer.w, weights_at_gradient, self.delay_compensation * scale)
            self.apply(layer, gradient, lr=share * self.rate(step), scale=scale,
                       late=late if self.momentum_correction else 0, weight_decay=self.weight_decay,
                       rounded=getattr(layer, "rounded", None))


class MomentumSGD(Optimizer):
    """SGD with momentum, as Caffe's solver has it: v = momentum v + lr (g + weight_decay w) ; w = w - v.

    momentum   from 0, less than 1; the other arguments are those of all optimizers
    """

    options, keeps = (MOMENTUM, *COMMON), ("velocity",)

    def __init__(self, parameters, lr, *, momentum=0.9, **common):
        super().__init__(parameters, lr, **common)
        self.momentum = momentum

    def prepare(self, layers):
        """Keep a velocity for each of these layers, zero at first."""
        self.velocity = {layer.name: np.zeros_like(layer.w) for layer in layers}

    def apply(self, layer, gradient, **constants):
        """One update of a layer, by momentum_update of the kernels."""
        kernels.momentum_update(layer.w, gradient, self.velocity[layer.name], momentum=self.momentum, **constants)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    momentum   its beta1, from 0, less than 1
    beta2      decay of the mean square, from 0, less than 1
    epsilon    added to the root of the mean square
    """

    options = (MOMENTUM._replace(help="beta1"), Option("beta2", "beta2", below_one, 0.999),
               Option("epsilon", "epsilon", amount, 1e-8), *COMMON)
    keeps = "moments", "updates"

    def __init__(self, parameters, lr, *, momentum=0.9, beta2=0.999, epsilon=1e-8, **common):
        super().__init__(parameters, lr, **common)
        self.betas = {"beta1": momentum, "beta2": beta2, "eps": epsilon}

    def prepare(self, layers):
        """Keep both moments for each of these layers, zero at first."""
        self.moments = {layer.name: (np.zeros_like(layer.w), np.zeros_like(layer.w)) for layer in layers}
        self.updates = dict.fromkeys(self.moments, 0)

    def apply(self, layer, gradient, **constants):
        """One update of a layer, by adamw_update of the kernels."""
        self.updates[layer.name] += 1
        kernels.adamw_update(layer.w, gradient, *self.moments[layer.name], step=self.updates[layer.name],
                             **self.betas, **constants)


OPTIMIZERS = {"sgd": MomentumSGD, "adamw": AdamW}
