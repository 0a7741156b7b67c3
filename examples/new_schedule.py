"""A schedule of your own: gradients of N steps are added up before they are summed over the ranks.

    mpiexec -n 2 python -m mpilayer.train --schedule examples/new_schedule.py:Accumulate --every 2
"""

from mpilayer import Option, Schedule
from mpilayer.base.cli import count
from mpilayer.schedules.shards import Part


class Accumulate(Schedule):
    """Gradient accumulation: an N-th of the messages, for a batch that is N times as large.

        every step:                        for l = L..1: total_l += backward(l) / N
        every N-th, layer by layer:        request[l] = Iallreduce(total_l)
        next forward, just before layer l: Wait(request[l]) ; w_l -= lr * total_l ; total_l = 0
    """

    options = (Option("every", "steps whose gradients are added up before they are summed", count, 4, metavar="N"),)

    def __init__(self, net, queue, optimizer, every=4):
        super().__init__(net, queue, optimizer)
        self.every, self.added, self.last = every, 0, 0
        queue.open()
        self.totals = queue.gradients(0)  # {layer: flat array}: the queue's memory, which it sums

    def step(self, t, batch):
        """Forward updates what was summed, backward adds up and sends."""
        self.net.write_gradients_to(1)  # buffer 0 belongs to the totals
        self.added, self.last = self.added + 1, t
        for layer in self.net.forward(batch):
            self.apply(layer)
        for layer in self.net.backward():
            self.totals[layer.name] += layer.g / self.every
            if self.added == self.every:
                self.send(layer)
        self.added %= self.every

    def send(self, layer):
        """Start the sum of a layer's total over the ranks."""
        self.channel.post(self.last, Part(layer.name, g=self.totals[layer.name]))

    def apply(self, layer):
        """Update a layer, if its total was sent."""
        for step, total in self.channel.settle(layer, up_to=self.last):
            self.optimizer.update(layer, total, step)
            total[:] = 0

    def drain(self):
        """Send what has been added up so far, and apply it."""
        for layer in self.net.layers:
            self.apply(layer)
        if self.added:
            for layer in self.net.backward_layers:
                self.send(layer)
            for layer in self.net.layers:
                self.apply(layer)
        self.added = 0
