"""Synchronous SGD with one collective a step."""

from mpilayer.schedules.base import Schedule


class OneShot(Schedule):
    """The baseline (Daily, Vishnu, Siegel: synchronous, network-wise; "SGD, one communication per task").

        for l = L..1: backward(l)
        G = Allreduce(all g) ; for every l: w_l -= lr * G_l / P
    """

    def __init__(self, net, queue, optimizer, options):
        self.net, self.queue, self.optimizer = net, queue, optimizer
        queue.open(net, slots=1, bucket=None, chunk=None)

    def step(self, t, batch):
        """Compute everything, then sum everything, then update everything."""
        for _ in self.net.forward(batch):
            pass
        for _ in self.net.backward():
            pass
        for layer in self.net.layers:
            self.queue.post(t, layer)
        for layer in self.net.layers:
            for step, gradient in self.queue.settle(layer, up_to=t):
                self.optimizer.update(layer, gradient, step)

    def drain(self):
        """Nothing is ever left in flight."""
