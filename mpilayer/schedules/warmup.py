"""Delayed updates after a beginning without delay."""

import copy

from mpilayer.schedules.delayed import Delayed


class Warmup(Delayed):
    """Early gradients change fast, and late ones cost most then:

        the first n steps: delayed(0), which is layer-wise ; drain ; from then on: delayed(k)
    """

    def __init__(self, net, queue, optimizer, options):
        self.later, self.beginning = options.delay, options.delay_warmup
        options = copy.copy(options)
        options.delay = 0
        super().__init__(net, queue, optimizer, options)

    def step(self, t, batch):
        """As delayed, of which delay is a matter of t."""
        if t == self.beginning:
            self.change(self.later)
        super().step(t, batch)
