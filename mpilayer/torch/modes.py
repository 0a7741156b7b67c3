"""When the mean gradients reach the optimizer: at the end of backward, or before the next forward reads the weights."""

import contextlib
import math

import torch

from mpilayer.base.errors import UserError
from mpilayer.schedules.delay_policy import Adaptive
from mpilayer.torch.groups import groups_of
from mpilayer.torch.sums import Sums

ONE_BY_ONE = {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop",
              "Adafactor"}  # of torch.optim: they treat each parameter without regard to others
EPSILON = 1e-6  # of the norm, as in torch.nn.utils.clip_grad_norm_


class OfSums:
    """What both have: Sums, of which a checkpoint holds the state, once they have a queue."""

    sums = None

    @property
    def ranks(self):
        """mpilayer.Ranks."""
        return self.sums.ranks

    @property
    def queue(self):
        """GradientQueue, after the first step."""
        return self.sums.queue

    @property
    def no_sync(self):
        """A block in which gradients add up and are not sent."""
        return self.sums.no_sync

    def close(self):
        """Take the hooks away and give back what MPI made; what is in flight is let go."""
        self.sums.close()

    def complete(self):
        """Wait for what is in flight, for a checkpoint."""
        if self.queue:
            self.queue.complete()
            self.sums.used.complete()

    def kept(self):
        """(the object whose `keeps` a checkpoint holds, or None, what else it holds)."""
        return self.sums if self.queue else None, {"orders": self.sums.opened}

    def reopen(self, notes):
        """That object again, to be filled."""
        if notes["orders"] is None:
            return None
        self.sums.open(notes["orders"])
        return self.sums

    def restored(self, notes):
        """It has been filled."""
        if self.queue:
            self.queue.restored()


class Alone:
    """One rank, and no delay: nothing to be done, but for clipping what the optimizer is about to apply."""

    queue = None
    no_sync = staticmethod(contextlib.nullcontext)

    def __init__(self, ranks, model, optimizer, clip):
        self.ranks, self.model, self.clip = ranks, model, clip
        groups_of(model)  # as picky as with several
        self.hook = optimizer.register_step_pre_hook(self._clip)

    def _clip(self, *_):
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)

    def drain(self):
        """Nothing is in flight."""

    complete = drain

    def close(self):
        """Take the hook away."""
        self.hook.remove()

    def kept(self):
        """As of others."""
        return None, {}

    def reopen(self, notes):
        """As of others."""

    def restored(self, notes):
        """As of others."""


class AfterBackward(OfSums):
    """After backward, `grad` of each parameter is what step() must apply: this step's mean over the ranks, or that of
    `delay` steps ago; None in the first `delay` steps, and if no rank had one. The optimizer stays as it is.

    loss_scale   what the loss of the step was multiplied by, as a function: sums are of gradients without it
    """

    def __init__(self, ranks, model, delay, order, loss_scale, **how):
        self.sums = Sums(ranks, model, delay, order, self._done, lambda group, up_to: None, loss_scale, **how)

    def _done(self, step):
        for group in self.sums.groups:
            for _, gradients in self.sums.gradients(group, step - self.sums.delay):
                for parameter, gradient in gradients.items():
                    scale = self.sums.loss_scale()
                    parameter.grad = gradient if gradient is None or scale == 1 else gradient.mul_(scale)

    def drain(self):
        """Let go what is still in flight: nobody will apply it."""
        self.sums.drop()


class BeforeForward(OfSums, torch.optim.Optimizer):
    """An optimizer around the user's, which makes the update of step t group by group, each just before forward of step
    t + 1 + delay reads it. Each with the learning rate and so on that there was when step() of its step was called.

    clip   largest norm of a step's mean gradient over all parameters, or None
    auto   whether the delay is to be chosen, from none on, by the rule of mpilayer.schedules.delay_policy.Adaptive
    """

    _step_supports_amp_scaling = True  # so that torch.amp.GradScaler calls step(), which refuses it

    def __init__(self, ranks, model, inner, delay, order, clip=None, auto=False, **how):
        if type(inner).__name__ not in ONE_BY_ONE:
            raise UserError(f"{type(inner).__name__} | is not known to treat parameters one by one, as"
                            f" overlap=\"forward\" needs it | expected one of {', '.join(sorted(ONE_BY_ONE))}"
                            " | try: overlap=None")
        self.inner, self.clip, self.constants = inner, clip, {}
        self.stepped = self.forgotten = -1  # the last step whose update was asked for, or whose gradient let go
        self.policy = Adaptive() if auto else None
        self.sums = Sums(ranks, model, delay, order, lambda step: None, self._settle, lambda: 1.0, **how)
        self.sums.handles += [module.register_forward_pre_hook(self._before) for module in model.modules()]
        self.sums.handles.append(model.register_state_dict_pre_hook(lambda *_: self.drain()))

    def __getattr__(self, name):
        return getattr(self.__dict__["inner"], name)

    @property
    def param_groups(self):
        """The user's optimizer's."""
        return self.inner.param_groups

    @property
    def state(self):
        """The user's optimizer's."""
        return self.inner.state

    def __repr__(self):
        return f"{self.inner!r} (each group before the next forward)"

    def state_dict(self):
        """The user's optimizer's, when all updates have been made."""
        self.drain()
        return self.inner.state_dict()

    def load_state_dict(self, state):
        """Into the user's optimizer."""
        self.drain()
        self.inner.load_state_dict(state)

    def zero_grad(self, set_to_none=True):
        """What no step() has asked for is let go, and what no_sync() has added up."""
        self.forgotten = self.sums.step - 1
        self.inner.zero_grad(set_to_none)

    def step(self, closure=None):
        """The update of the last backward is to be made. Raises UserError for a closure."""
        if closure is not None:
            raise UserError("step(closure) | a closure needs the gradients at once | try: overlap=None")
        if getattr(self, "grad_scale", None) is not None:
            raise UserError("a GradScaler looks at the gradients of the step first | try: overlap=None")
        self.stepped = self.sums.step - 1
        self.constants[self.stepped] = [{k: v for k, v in group.items() if k != "params"}
                                        for group in self.inner.param_groups]
        for step in [step for step in self.constants if step < self.stepped - self.sums.delay - 1]:
            del self.constants[step]
        if self.policy and self.queue:
            self.policy.before_step(self)
            self.policy.after_step(self)

    @property
    def channel(self):
        """Whose readings the policy looks at."""
        return self.queue

    @property
    def delay(self):
        """In steps."""
        return self.sums.delay

    def change(self, delay):
        """Another delay from here on, for the policy."""
        self.drain()
        self.sums.change(delay)

    def _settle(self, group, up_to):
        """A backward begins, which needs memory of the group."""
        if self.sums.step - 1 > max(self.stepped, self.forgotten):
            raise UserError(f"step {self.sums.step} | {next(iter(group.parameters))} | backward again without a step()"
                            " | try: with model.no_sync() for all but the last of a step")
        self._apply([group], up_to)

    @torch.compiler.disable
    def _before(self, module, _):
        """A module is about to read its parameters; without training nothing may be late."""
        if self.queue:
            up_to = min(self.sums.step - 1 - self.delay if self.sums.model.training else math.inf, self.stepped)
            needed = [group for group in self.sums.reads[module] if self.sums.due(group, up_to)]
            if needed:  # what else has come goes with it: each call of the optimizer costs Python's time
                self._apply(dict.fromkeys([*needed, *self.sums.arrived(up_to)]), up_to)
            else:
                self.queue.test()

    @torch.no_grad()
    def _apply(self, groups, up_to):
        """All updates of these groups, step by step."""
        steps = {}
        for group in groups:
            for step, gradients in self.sums.gradients(group, up_to):
                steps.setdefault(step, {}).update(gradients)
        for step in sorted(steps):
            if step in self.constants:  # else step() was not called: there is no update
                scale = min(1.0, self.clip / (self.queue.norm(step) + EPSILON)) if self.clip else 1.0
                self._update(steps[step], self.constants[step], scale)

    def _update(self, gradients, constants, scale):
        """The user's optimizer's, of these parameters only."""
        groups, kept = self.inner.param_groups, {parameter: parameter.grad for parameter in gradients}
        before = [dict(group) for group in groups]
        for parameter, gradient in gradients.items():
            parameter.grad = gradient if gradient is None or scale == 1 else gradient.mul_(scale)
        for group, then in zip(groups, constants, strict=True):
            group.update(then, params=[parameter for parameter in group["params"] if parameter in gradients])
        try:
            type(self.inner).step(self.inner)
        finally:
            for group, old in zip(groups, before, strict=True):
                group.update(old)
            for parameter, gradient in kept.items():
                parameter.grad = gradient

    def kept(self):
        """As of both, and the learning rates and so on of steps whose updates are to be made."""
        keeper, notes = super().kept()
        return keeper, notes | {"stepped": self.stepped, "constants": list(self.constants.items())}

    def restored(self, notes):
        """As of both."""
        super().restored(notes)
        self.stepped, self.constants = notes["stepped"], dict(notes["constants"])

    def drain(self):
        """Make all updates that step() has asked for."""
        self._apply(self.sums.groups, self.stepped)
