"""Every rank makes steps of its own; every H-th step the ranks average: local SGD and DiLoCo."""

import contextlib

import numpy as np
import torch

from mpilayer.base.errors import UserError
from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.torch.groups import FlatGradients, broadcast, check_equal, groups_of


class Periodic:
    """The rules of mpilayer.schedules.local, with the user's optimizer as the inner one and SGD as the outer one.

        every step:                 the optimizer's own
        every H-th, by module:      request[l] = Iallreduce((anchor_l - w_r,l) / P) ; told_l = w_r,l
        k steps later:              outer step of anchor_l by Wait(request[l]) ; w_r,l = anchor_l + (w_r,l - told_l)

    local-sgd has an outer learning rate of 1 and no momentum, so that anchor_l becomes the mean of all ranks' weights;
    diloco has Nesterov's momentum.

    period   H, in steps         delay   k, in steps, less than H
    """

    keeps = "step", "sent", "anchor", "told", "velocity", "queue"

    def __init__(self, ranks, model, optimizer, *, period, delay, outer_lr, outer_momentum, **settings):
        self.ranks, self.period, self.delay, self.step, self.sent = ranks, period, delay, 0, False
        self.groups = groups_of(model)
        check_equal(ranks, self.groups)
        broadcast(ranks, model)
        self.flat = FlatGradients(self.groups, self.groups[::-1])
        self.queue = GradientQueue(ranks, self.flat, **settings)
        self.anchor, self.told, self.velocity = (
            {group.name: np.zeros_like(group.w) for group in self.groups} for _ in range(3))
        self.anchors, self.tolds, velocities = (
            {p: tensor for group in self.groups for p, tensor in group.tensors(flat[group.name]).items()}
            for flat in (self.anchor, self.told, self.velocity))
        for parameter, anchor in self.anchors.items():
            anchor.copy_(parameter.detach())
        self.outer = torch.optim.SGD(self.anchors.values(), outer_lr, outer_momentum, nesterov=outer_momentum > 0)
        for parameter, anchor in self.anchors.items():
            self.outer.state[anchor]["momentum_buffer"] = velocities[parameter] if outer_momentum else None
        self.hook = optimizer.register_step_post_hook(self._stepped)

    def _stepped(self, *_):
        """The optimizer has made a step."""
        self.step += 1
        since = self.step % self.period
        if self.sent and since == self.delay:
            self._take_in()
        if since == 0:
            self._send()
            if self.delay == 0:
                self._take_in()
        self.queue.test()

    @torch.no_grad()
    def _send(self):
        for group in self.flat.backward_layers:
            for parameter, view in group.views[0].items():
                told = self.tolds[parameter].copy_(parameter)
                torch.sub(self.anchors[parameter], told, out=view).div_(self.ranks.size)
            self.queue.post(self.step, group.name)
        self.sent = True

    @torch.no_grad()
    def _take_in(self):
        for group in self.groups:
            for _ in self.queue.settle(group, self.step):
                for parameter, view in group.views[0].items():
                    self.anchors[parameter].grad = view
        self.outer.step()
        for parameter, anchor in self.anchors.items():
            parameter.copy_(anchor + (parameter.float() - self.tolds[parameter]))
        self.sent = False

    no_sync = staticmethod(contextlib.nullcontext)

    def drain(self):
        """Take in what is in flight, and end the current period early."""
        if self.sent:
            self._take_in()
        if self.step % self.period:
            self._send()
            self._take_in()
            self.step += -self.step % self.period

    def close(self):
        """Take the hook away and give back what MPI made; what is in flight is let go."""
        self.hook.remove()
        for group in self.groups:
            list(self.queue.settle(group, self.step))
        self.queue.close()

    def complete(self):
        """Wait for what is in flight, for a checkpoint."""
        self.queue.complete()

    def kept(self):
        """(the object whose `keeps` a checkpoint holds, what else it holds)."""
        return self, {}

    def reopen(self, notes):
        """That object again, to be filled."""
        return self

    def restored(self, notes):
        """It has been filled."""
        self.queue.restored()


def check_period(period, delay):
    """Raise UserError unless a mean arrives before the next one is due."""
    if not isinstance(period, int) or period < 1:
        raise UserError(f"period {period!r} | expected a positive whole number of steps")
    if not isinstance(delay, int) or not 0 <= delay < period:
        raise UserError(f"delay {delay!r} | expected a number of steps less than the period of {period}")
