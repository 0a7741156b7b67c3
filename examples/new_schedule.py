"""A schedule of your own: gradients of several steps are added up before they travel.

    mpiexec -n 2 python -m mpilayer.train --schedule examples/new_schedule.py:Accumulated --every 4
"""

import numpy as np

from mpilayer import Option, Schedule
from mpilayer.base.cli import count


class Accumulated(Schedule):
    """One message a layer every n-th step: n times less traffic, for steps with batches n times as large.

        for l = L..1: a_l += backward(l) / n ; every n-th step: request[l] = Iallreduce(a_l) ; a_l = 0
        next forward, just before layer l reads w_l: Wait(request[l]) ; w_l -= lr * a_l / P
    """

    keeps = "sums", "steps"  # what its next steps depend on, for checkpoints
    options = (Option("every", "steps whose gradients are added up", count, 2, metavar="N"),)

    def __init__(self, net, queue, optimizer, every=2):
        super().__init__(net, queue, optimizer)
        self.every, self.steps = every, 0
        self.sums = {layer.name: np.zeros_like(layer.w) for layer in net.layers}
        queue.open()

    def step(self, t, batch):
        """Forward applies what has arrived, backward adds up; every n-th step sends."""
        self.steps += 1
        for layer in self.net.forward(batch):
            self.apply(layer)
        for layer in self.net.backward():
            self.sums[layer.name] += layer.g / np.float32(self.every)
            if self.steps % self.every == 0:
                layer.g[:] = self.sums[layer.name]
                self.sums[layer.name][:] = 0
                self.channel.post(t, layer)

    def apply(self, layer):
        """Update the layer with what is on its way."""
        for step, gradient in self.channel.settle(layer, up_to=float("inf")):
            self.optimizer.update(layer, gradient, step)

    def drain(self):
        """Apply what is in flight; what has not been sent is kept for the next step."""
        for layer in self.net.layers:
            self.apply(layer)
