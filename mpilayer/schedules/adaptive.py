"""Delayed updates with the smallest delay that hides communication."""

import copy

import numpy as np

from mpilayer.schedules.delayed import Delayed

MOST = 3  # steps of delay, as in the paper
WINDOW = 20  # steps between two looks
VISIBLE = 0.03  # of the time: less waiting than this counts as hidden
FULL = 0.97  # of the time with messages in flight: a link so busy gains nothing by more delay


class Adaptive(Delayed):
    """Which the paper promises and does not describe (Daily, Vishnu, Siegel: adaptive delay). Here:

        k = 0 ; patience = 4 ; after every 20 steps, but for the first, in which ranks still gather:
            hidden = little waiting, or the link was never idle    (means over the ranks)
            if not hidden and k < 3:      k = k + 1 ; if k was left before: patience = 2 * patience
            elif patience looks were hidden:   k = max(k - 1, 0)

    A change of k drains first, so every gradient is applied once and in order.
    """

    def __init__(self, net, queue, optimizer, options):
        options = copy.copy(options)
        options.delay = 0
        super().__init__(net, queue, optimizer, options)
        self.patience, self.hidden, self.lowered, self.begun = 4, 0, False, False
        self._look()

    def step(self, t, batch):
        """As delayed; now and then, think about the delay."""
        super().step(t, batch)
        self.steps += 1
        if self.steps == WINDOW:
            if self.begun:
                self.review()
            self.begun = True
            self._look()

    def review(self):
        """Raise the delay, lower it, or leave it."""
        share = self.shares()
        hidden = share["exposed"] < VISIBLE or share["busy"] > FULL
        self.hidden = self.hidden + 1 if hidden else 0
        if not hidden and self.delay < MOST:
            self.patience *= 2 if self.lowered else 1
            self.turn(self.delay + 1, share, lowered=False)
        elif self.hidden >= self.patience and self.delay > 0:
            self.turn(self.delay - 1, share, lowered=True)

    def _look(self):
        self.steps, self.start = 0, self._readings()

    def _readings(self):
        queue = self.queue
        return np.array([queue.trace.now(), queue.trace.exposed, queue.engine.busy()])

    def shares(self):
        """Means over the ranks of the shares of the time since the last look."""
        total, exposed, busy = self.queue.total(self._readings() - self.start)
        return {"exposed": exposed / total, "busy": busy / total}

    def turn(self, delay, share, *, lowered):
        """Another delay from here on; `share` says why."""
        self.queue.say(f"delay {self.delay} -> {delay}: waiting {share['exposed']:.0%} of the time,"
                       f" messages in flight {share['busy']:.0%}")
        self.lowered, self.hidden = lowered, 0
        self.change(delay)
