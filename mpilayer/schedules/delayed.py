"""Layer-wise sums that are applied k steps late."""

from mpilayer.schedules import shards as weights
from mpilayer.schedules.base import Schedule


class Delayed(Schedule):
    """Gradients k steps stale, hidden behind k steps of computing (Daily, Vishnu, Siegel: delayed updates).

        slot = t mod (k+1)                              k+1 gradient buffers
        for l = L..1: backward(l) into slot ; request[t, l] = Iallreduce(slot, l)
        in forward of step t+1+k, just before layer l reads w_l: Wait(request[t, l]) ; w_l -= lr * g_l(t) / P

    The first k steps after a start or a drain apply nothing; a drain applies what is in flight, oldest first. The
    learning rate is that of the step the gradient is from; momentum and weight decay act when it is applied.
    """

    takes = {"delay": 1, "delay_warmup": 0}

    def __init__(self, net, queue, optimizer, options):
        self.net, self.queue, self.optimizer = net, queue, optimizer
        self.delay = getattr(options, "delay", None) or 0
        self.open()

    def open(self, **messages):
        """Prepare the queue for this delay; nothing may be in flight."""
        self.queue.open(self.net, slots=self.delay + 1, **messages)
        compensated = self.optimizer.compensation and self.delay
        self.then = [weights.copy(self.net)[0] for _ in range(self.delay + 1)] if compensated else None

    def step(self, t, batch):
        """Forward settles what is due, backward posts."""
        self.net.write_gradients_to(t % (self.delay + 1))
        for layer in self.net.forward(batch):
            self.apply(layer, up_to=t - 1 - self.delay)
            if self.then:
                self.then[t % (self.delay + 1)][layer.name][:] = layer.w
        for layer in self.net.backward():
            self.queue.post(t, layer)

    def drain(self):
        """Apply everything in flight."""
        for layer in self.net.layers:
            self.apply(layer, up_to=float("inf"))

    def change(self, delay):
        """Another delay from here on; every gradient is still applied once and in order."""
        self.drain()
        self.delay = delay
        self.open()

    def apply(self, layer, up_to):
        """Update the layer with its sums of all steps not after `up_to`, oldest first."""
        for step, gradient in self.queue.settle(layer, up_to):
            then = self.then and self.then[step % (self.delay + 1)][layer.name]
            self.optimizer.update(layer, gradient, step, late=self.delay, then=then)
