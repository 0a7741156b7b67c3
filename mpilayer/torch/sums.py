"""Sums of a model's gradients over the ranks, group by group, while backward goes on."""

import contextlib
import math

import numpy as np
import torch

from mpilayer.base.errors import UserError
from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.torch.groups import FlatGradients, broadcast, check_equal, groups_of
from mpilayer.torch.reads import Reads
from mpilayer.torch.trial import ORDER, Trial

CHANGED = "expected parameters that stay | try: model.undistribute() before the model is changed, distribute() after"


class Used:
    """How many ranks had a gradient of each parameter, in each of the last steps: a sum of its own.

    What no rank had is not to be touched by an optimizer, though the queue carries zeros for it. The queue's lock keeps
    a thread that moves its messages out of MPI meanwhile.
    """

    keeps = "counts", "lacking"

    def __init__(self, ranks, queue, parameters, slots):
        self.ranks, self.queue, self.comm = ranks, queue, ranks.duplicate()
        self.numbers = {parameter: number for number, parameter in enumerate(parameters)}
        self.counts, self.lacking = np.zeros((slots, len(self.numbers)), np.int32), {n: set() for n in range(slots)}
        self.requests = [None] * slots

    def post(self, step, lacking):
        """This rank's, but for the parameters `lacking` a gradient."""
        slot = step % len(self.requests)
        self._arrive(slot)
        self.counts[slot], self.lacking[slot] = 1, {self.numbers[parameter] for parameter in lacking}
        self.counts[slot, list(self.lacking[slot])] = 0
        with self.queue.engine.held():
            self.requests[slot] = self.comm.Iallreduce(self.ranks.MPI.IN_PLACE, self.counts[slot])

    def anywhere(self, step, parameter):
        """Whether any rank had one; waits for the sum if this one had none."""
        slot, number = step % len(self.requests), self.numbers[parameter]
        if number not in self.lacking[slot]:
            return True
        self._arrive(slot)
        return bool(self.counts[slot, number])

    def _arrive(self, slot):
        if self.requests[slot] is not None:
            self.queue.wait(lambda: self._is_there(slot), "which parameters had a gradient")
            self.requests[slot] = None

    def _is_there(self, slot):
        with self.queue.engine.held():
            return self.requests[slot].Test()

    def complete(self):
        """Wait for all sums."""
        for slot in range(len(self.requests)):
            self._arrive(slot)

    def close(self):
        """Give the communicator back."""
        self.complete()
        with self.queue.engine.held():
            self.comm.Free()


class Sums:
    """Hooks of a model that post its gradients, each group's in its turn, as soon as backward has made them.

    The first step tells the order in which forward reads the groups and backward makes them; rank 0's is everyone's.
    Until then gradients wait for the end of backward.

    model      torch.nn.Module, the same on all ranks; it is given rank 0's parameters and buffers
    delay      steps that a sum may be late          order      of messages, as GradientQueue takes it
    at_once    whether a group is posted when it is complete, not at the end of backward
    done       done(t) is called at the end of backward of step t, when everything is posted
    settle     settle(group, up_to) is called when backward begins: sums of steps not after `up_to` are to be taken
    loss_scale   a function of what the loss is multiplied by: gradients are divided by that
    settings   keyword arguments of GradientQueue

    step       number of the step to come                       queue      GradientQueue, after the first step
    """

    keeps = "step", "used", "queue"

    def __init__(self, ranks, model, delay, order, done, settle, loss_scale, *, at_once=True, **settings):
        self.ranks, self.model, self.delay, self.order = ranks, model, delay, order
        self.done, self.settle, self.loss_scale = done, settle, loss_scale
        self.at_once, self.settings = at_once, settings
        self.opened = None  # orders of the queue
        self.groups, self.step, self.syncing, self.armed, self.queue = groups_of(model), 0, True, False, None
        self.trial = None
        self.group = {p: group for group in self.groups for p in group.parameters.values()}
        check_equal(ranks, self.groups)
        broadcast(ranks, model)
        self.lacking, self.turn = {}, 0
        self.forward, self.backward = {}, {}  # orders of the first step
        self.reads = {}  # groups of which each module reads a parameter
        for module in model.modules():
            own = (self.group.get(p) for p in module.parameters(recurse=False))
            self.reads[module] = dict.fromkeys(group for group in own if group)
        self.watch = Reads(model, self._read)
        self.handles = [p.register_post_accumulate_grad_hook(self._ready) for p in self.group]
        self._begin()

    def _read(self, module, parameter):
        if group := self.group.get(parameter):
            self.forward[group] = self.reads[module][group] = None

    def _begin(self):
        """Of the next step nothing is there yet."""
        self.lacking, self.turn = {group: set(group.names) for group in self.groups}, 0

    @torch.compiler.disable
    @torch.no_grad()
    def _ready(self, parameter):
        """A gradient is there."""
        if not self.syncing:
            return
        if not self.armed:
            self.armed, self.scale = True, 1 / (self.ranks.size * self.loss_scale())
            torch.autograd.Variable._execution_engine.queue_callback(self._end)
            for group in self.groups if self.queue else ():  # what forward has not read: its memory is needed now
                self.settle(group, self.step - 1 - self.delay)
        group = self.group[parameter]
        if parameter not in self.lacking[group]:
            raise UserError(f"step {self.step} | {group.names[parameter]} | its gradient came twice in one backward"
                            " | try: checkpoint(..., use_reentrant=False)")
        self.lacking[group].discard(parameter)
        self.backward[group] = None
        if self.queue:
            self._pack(group, parameter)
            if self.at_once and not self.lacking[group]:
                self._post()
            self.queue.test()

    def _pack(self, group, parameter):
        """Its share of the mean into the memory of this step."""
        if parameter.dtype != group.dtypes[parameter]:
            raise UserError(f"step {self.step} | {group.names[parameter]} | is {parameter.dtype}, and was"
                            f" {group.dtypes[parameter]} | {CHANGED}")
        view = group.views[self.step % (self.delay + 1)][parameter]
        view.zero_() if parameter.grad is None else torch.mul(parameter.grad, self.scale, out=view)
        parameter.grad = None

    def _post(self):
        """All groups whose turn it is and that are complete."""
        layers = self.flat.backward_layers
        while self.turn < len(layers) and not self.lacking[layers[self.turn]]:
            self.queue.post(self.step, layers[self.turn].name)
            self.turn += 1

    @torch.no_grad()
    def _end(self):
        """Of backward: parameters without a gradient send zeros, or what no_sync() has left."""
        self.armed = False
        if self.queue is None:
            self.open(self.orders())
            for group in self.groups:
                for parameter in group.names:
                    if parameter not in self.lacking[group]:
                        self._pack(group, parameter)
        lacking = []
        for group, parameters in self.lacking.items():
            for parameter in parameters:
                lacking += [parameter] if parameter.grad is None else []
                self._pack(group, parameter)
            self.lacking[group] = set()
        self._check_same(lacking)
        self._post()
        self.used.post(self.step, lacking)
        step, self.step = self.step, self.step + 1
        self._begin()
        self.done(step)
        if self.trial and not self.trial.over:
            self.trial.end_of_step()

    def _check_same(self, lacking):
        """Raise UserError if one of these parameters had no gradient because another has taken its place."""
        own = set(self.model.parameters()) if lacking else ()
        for parameter in lacking:
            if parameter not in own:
                raise UserError(f"step {self.step} | {self.group[parameter].names[parameter]} | is not the model's any"
                                f" more | {CHANGED}")

    def orders(self):
        """Names of the groups as forward reads them, and as backward makes them; those that it did not see at the end.
        """
        return [[group.name for group in dict.fromkeys([*seen, *rest])] for seen, rest in (
            (self.forward, self.groups), (self.backward, self.groups[::-1]))]

    def open(self, orders):
        """The orders are known; all ranks call this together, and the first one's are everyone's."""
        self.watch.close()
        self.opened, by_name = self.ranks.bcast(orders), {group.name: group for group in self.groups}
        self.flat = FlatGradients(*([by_name[name] for name in order] for order in self.opened))
        tries = self.settings["progress"] == "auto"
        settings = self.settings | ({"progress": ORDER[0]} if tries else {})
        self.queue = GradientQueue(self.ranks, self.flat, delay=self.delay, order=self.order, **settings)
        self.trial = Trial(self.queue) if tries else None
        self.used = Used(self.ranks, self.queue, self.group, self.delay + 1)

    def change(self, delay):
        """Another delay, when nothing is in flight; all ranks call this together."""
        self.delay = delay
        self.used.close()
        self.queue.open(delay=delay, order=self.order)
        self.used = Used(self.ranks, self.queue, self.group, delay + 1)

    def gradients(self, group, up_to):
        """Yield (step, {parameter: its mean gradient, or None if no rank had one}) of all steps not after `up_to`."""
        for step, _ in self.queue.settle(group, up_to) if self.queue else ():
            views = group.views[step % (self.delay + 1)]
            yield step, {p: view.to(p.dtype) if self.used.anywhere(step, p) else None for p, view in views.items()}

    def due(self, group, up_to):
        """Steps not after `up_to` whose sums of a group have not been taken."""
        return [step for step in self.queue.posting.pending[group.name] if step <= up_to] if self.queue else []

    def arrived(self, up_to):
        """Groups in the order of forward of which sums are due, and are all there."""
        return [group for group in self.flat.layers if (steps := self.due(group, up_to))
                and all(self.queue.has_arrived(group.name, step) for step in steps)]

    def drop(self):
        """Let go what is in flight."""
        for group in self.groups:
            for _ in self.gradients(group, math.inf):
                pass

    @contextlib.contextmanager
    def no_sync(self):
        """A block in which gradients are not sent but added up, for the next backward outside of it."""
        before, self.syncing = self.syncing, False
        try:
            yield
        finally:
            self.syncing = before

    def close(self):
        """Take the hooks away, let go what is in flight, and give back what MPI made; all ranks together."""
        self.drop()
        for handle in self.handles:
            handle.remove()
        self.watch.close()
        if self.queue:
            self.used.close()
            self.queue.close()
