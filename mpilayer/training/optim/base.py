"""What all optimizers share, with all that is done about late gradients."""

import copy

import kernels
from mpilayer.base.cli import FLOAT32, Option, amount, below_one, number
from mpilayer.base.errors import UserError
from mpilayer.base.tracing import Trace
from mpilayer.schedules.shards import Part

MOMENTUM = Option("momentum", "momentum", below_one, 0.9)
COMMON = (
    Option("weight_decay", "weight decay", amount, 5e-4),
    Option("clip", "largest norm of a step's gradient; longer ones are scaled (default: no limit)",
           number(float, 1e-30, "a positive number", FLOAT32)),
    Option("delay_compensation", "move late gradients towards what they would be now", amount, 0.0, metavar="FACTOR",
           late=True),
    Option("momentum_correction", "a late gradient brings along what its momentum would have moved since", bool, False,
           late=True),
    Option("weight_prediction", "take gradients at the weights that there will be when they arrive", bool, False,
           late=True),
)


def check(values, spell=str):
    """Raise UserError for options, attributes of `values`, that do not go together; `spell` is how one is written."""
    if values.momentum_correction and values.weight_prediction:
        raise UserError(f"{spell('momentum_correction')} and {spell('weight_prediction')} both move weights ahead"
                        " | expected one of them")


class Optimizer:
    """What all optimizers share: the learning rate of a step, clipping, and corrections for late gradients.

    A subclass has prepare(layers), which makes what it keeps, and apply(layer, gradient, lr, scale, late, weight_decay,
    rounded), one update.

    parameters            a net, Parameters, or whatever has `layers` with a name and flat weights `w`
    lr                    learning rate, or a function from a step to it: the step in which the gradient was taken
    weight_decay          what is added to the gradient for each unit of weight; AdamW decouples it
    clip                  largest norm over all layers of a step's mean gradient, a longer one is scaled; None: no
                          limit. The norm comes from the gradient queue, which waits for all layers
    momentum_correction   a gradient that is applied D steps late also makes the moves that its momentum would have
                          made meanwhile (Kosson et al. 2021, spike compensation; for D = 1 Nesterov's method, and with
                          Adam Dozat's)
    weight_prediction     gradients are taken where the weights will be in D steps if each step moves them as the last
                          one did: w + D (w - w_before), for w that sees every gradient late (Chen et al. 2018,
                          SpecTrain). A drain leaves w. Costs a copy of the weights
    delay_compensation    factor by which a late gradient is moved towards what it would be at today's weights (Zheng
                          et al. 2017, DC-ASGD); 0: not at all
    """

    options, keeps = COMMON, None
    whole_layers = False  # whether it cannot update a part of a layer by itself

    def __init__(self, parameters, lr, *, weight_decay=5e-4, clip=None, momentum_correction=False,
                 weight_prediction=False, delay_compensation=0.0):
        self.rate = lr if callable(lr) else lambda step: lr
        self.weight_decay, self.clip = weight_decay, clip
        self.momentum_correction, self.delay_compensation = momentum_correction, delay_compensation
        self.weight_prediction = weight_prediction
        check(self)
        self.trace, self.norm = Trace(keep=0), None
        self._begin(parameters.layers)

    def _begin(self, layers):
        self.prepare(layers)
        self.true = {layer.name: layer.w.copy() for layer in layers} if self.weight_prediction else {}

    def attach(self, trace, norm):
        """Let a Trace time the updates, and norm(step) give the norm of a step's gradient; the optimizer itself."""
        self.trace, self.norm = trace, norm
        return self

    def over(self, parts):
        """A new optimizer with the same settings for other memory: `parts` are layers with a name and flat `w`."""
        other = copy.copy(self)
        other._begin(parts)
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
            self._apply(layer, gradient, late, lr=share * self.rate(step), scale=scale, weight_decay=self.weight_decay)

    def _apply(self, layer, gradient, late, **constants):
        rounded = getattr(layer, "rounded", None)
        if not self.weight_prediction:
            self.apply(layer, gradient, late=late if self.momentum_correction else 0, rounded=rounded, **constants)
            return
        true = self.true[layer.name]
        layer.w[:] = true
        self.apply(Part(layer.name, true), gradient, late=0, rounded=None, **constants)
        kernels.extrapolate(layer.w, true, late, rounded=rounded)

    def drained(self, layer):
        """No gradient of a layer is in flight: its weights need not be ahead."""
        if self.weight_prediction:
            kernels.extrapolate(layer.w, self.true[layer.name], 0, rounded=getattr(layer, "rounded", None))
