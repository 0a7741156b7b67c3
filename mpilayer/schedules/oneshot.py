"""Synchronous SGD with one collective a step."""


class OneShot:
    """The baseline (Daily, Vishnu, Siegel: synchronous, network-wise; "SGD, one communication per task").

        for l = L..1: backward(l)
        G = Allreduce(all g) ; for every l: w_l -= lr * G_l / P
    """

    def __init__(self, net, queue, optimizer, delay=0):
        self.net, self.queue, self.optimizer = net, queue, optimizer

    def step(self, t, batch):
        """Compute everything, then sum everything, then update everything."""
        for _ in self.net.forward(batch):
            pass
        for _ in self.net.backward():
            pass
        whole = self.net.whole
        self.queue.post(t, whole)
        for _ in self.queue.settle(whole, up_to=t):
            for layer in self.net.layers:
                self.optimizer.update(layer, layer.g, t)

    def drain(self):
        """Nothing is ever left in flight."""
