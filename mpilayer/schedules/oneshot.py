"""Synchronous SGD with one collective a step."""

from mpilayer.schedules.base import Schedule


class OneShot(Schedule):
    """The baseline (Daily, Vishnu, Siegel: synchronous, network-wise; "SGD, one communication per task").

        for l = L..1: backward(l)
        G = Allreduce(all g) ; for every l: w_l -= lr * G_l / P

    Nothing is in flight between two steps.
    """

    kept_sums, replicated, only_updates, overlaps, keeps = True, True, True, False, ()

    def __init__(self, net, queue, optimizer):
        super().__init__(net, queue, optimizer)
        queue.open(bucket=None, chunk=None)
        queue.place_gradients()

    def step(self, t, batch):
        """Compute everything, then sum everything, then update everything."""
        for _ in self.net.forward(batch):
            pass
        for _ in self.net.backward():
            pass
        for layer in self.net.layers:
            self.channel.post(t, layer)
        for layer in self.net.layers:
            for step, gradient in self.channel.settle(layer, up_to=t, as_sent=True):
                self.optimizer.update(layer, gradient, step)

    def drain(self):
        """Nothing is ever left in flight."""
