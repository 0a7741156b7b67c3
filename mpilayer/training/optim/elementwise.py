"""Updates of each number by itself, in one pass over memory."""

import numpy as np

import kernels
from mpilayer.base.cli import Option, amount, below_one
from mpilayer.training.optim.base import COMMON, MOMENTUM, Optimizer


class MomentumSGD(Optimizer):
    """SGD with momentum, as Caffe's solver has it: v = momentum v + lr (g + weight_decay w) ; w = w - v.

    momentum   from 0, less than 1; the other arguments are those of all optimizers
    """

    options, keeps = (MOMENTUM, *COMMON), ("velocity", "true")

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
    keeps = "moments", "updates", "true"

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
