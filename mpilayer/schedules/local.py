"""Every rank makes steps of its own; every H-th step the ranks average."""

import numpy as np

import kernels
from mpilayer.base.cli import Option, amount, below_one, count, natural_or
from mpilayer.base.errors import UserError
from mpilayer.schedules import shards
from mpilayer.schedules.base import CLIP_REFUSED, Schedule
from mpilayer.schedules.shards import Part


def _period(steps):
    return Option("period", "steps between means", count, steps, metavar="H")


DELAY = Option("delay", "steps a mean is late", natural_or("auto"), 0, metavar="K")


class Local(Schedule):
    """The base of schedules whose ranks make steps of their own. Backward still reads w when g_l is there, so the new
    weights go into a copy, `ahead`.

        for l = L..1: g_l = backward(l) ; ahead_l = w_l - lr * P * g_l ; send ahead_l to others
        next forward, just before layer l is read: w_l = ahead_l, combined with what others sent
    """

    refuses = {"clip": CLIP_REFUSED}

    def __init__(self, net, channel, optimizer):
        self.ahead = {name: Part(name, w) for name, w in shards.copy(net)[0].items()}
        super().__init__(net, channel, optimizer.over(self.ahead.values()))
        self.scale, self.now = channel.ranks.size, 0

    def step(self, t, batch):
        """Forward takes what arrived, backward makes the rank's own step and sends."""
        self.now = t
        for layer in self.net.forward(batch):
            self.hear(layer)
            self.channel.test()
        for layer in self.net.backward():
            ahead = self.ahead[layer.name]
            ahead.w[:] = layer.w
            self.optimizer.update(ahead, layer.g, t, scale=self.scale)
            self.tell(layer)
            self.channel.test()


class LocalSGD(Local):
    """Averages every H steps (McMahan et al. 2017; Stich 2019); with H = 1 and SGD the numbers of one-shot.

        every step:                      w_r -= lr * P g_r
        every H-th, layer by layer:      request[l] = Iallreduce((anchor_l - w_r,l) / P)
        k steps later, before l is read: told_l = w_r,l at that time ; anchor_l -= Wait(request[l])
                                         w_r,l = anchor_l + (w_r,l - told_l)

    With a delay of k < H steps the sum has k steps of computing to hide behind (Wang et al. 2020, CoCoD and overlapped
    local SGD; Douillard et al. 2025, streaming). A drain averages.
    """

    options = (_period(10), DELAY)
    keeps = "ahead", "anchor", "told", "since", "now"
    buffers = 1  # sums that may be on their way

    def __init__(self, net, queue, optimizer, period, delay):
        super().__init__(net, queue, optimizer)
        self.period, self.delay, self.since = period, delay, 0
        self.anchor, self.told = shards.copy(net)[0], shards.copy(net)[0]
        queue.open(delay=self.buffers - 1)
        self.difference = queue.gradients(0)

    @classmethod
    def check(cls, ranks, period, delay, **others):
        """Raise UserError unless a mean arrives before the next one is due."""
        if delay == "auto" or delay >= period:
            raise UserError(f"--delay {delay}: expected less than the --period of {period}")

    def step(self, t, batch):
        """The rank's own step; in the last of a period it is sent to the others."""
        self.net.write_gradients_to(self.buffers)  # those before are for what is told
        super().step(t, batch)
        self.since += 1
        if self.since == self.period:
            self.since = 0

    def tell(self, layer):
        """At the end of a period, send how far this rank has come."""
        if self.since + 1 == self.period:
            self.post(layer.name)

    def post(self, name):
        """Send a layer's share of the mean difference."""
        difference, ahead = self.difference[name], self.ahead[name].w
        np.subtract(self.anchor[name], ahead, out=difference)
        difference /= self.scale
        self.told[name][:] = ahead
        self.channel.post(self.now, Part(name, g=difference))

    def hear(self, layer):
        """The rank's own step, and the mean when it is due."""
        layer.w[:] = self.ahead[layer.name].w
        if self.since >= self.delay:
            for _, mean in self.channel.settle(layer, up_to=self.now):
                since = layer.w - self.told[layer.name]
                layer.w[:] = self.merge(layer.name, mean) + since

    def merge(self, name, mean):
        """The weights that the rank would have gone on from, from the mean of all differences."""
        self.anchor[name] -= mean
        return self.anchor[name]

    def drain(self):
        """Apply what is in flight, then end the current period early."""
        self.hear_all()
        if self.since:
            for layer in self.net.backward_layers:
                self.post(layer.name)
            self.hear_all()
            self.since = 0

    def hear_all(self):
        """Apply what is in flight, now."""
        since, self.since = self.since, self.period
        for layer in self.net.layers:
            self.hear(layer)
            self.ahead[layer.name].w[:] = layer.w
        self.since = since


class DiLoCo(LocalSGD):
    """The mean difference as a gradient for Nesterov's momentum (Douillard et al. 2023, algorithm 1).

        as local SGD, but:   V_l = m V_l + a D_l ; anchor_l -= m V_l + a D_l    D_l the mean difference

    m is `outer_momentum`, a is `outer_lr`.
    """

    options = (_period(20), DELAY, Option("outer_lr", "learning rate of the mean difference", amount, 0.7),
               Option("outer_momentum", "its Nesterov momentum", below_one, 0.9))
    keeps = *LocalSGD.keeps, "velocity"

    def __init__(self, net, queue, optimizer, period, delay, outer_lr, outer_momentum):
        super().__init__(net, queue, optimizer, period, delay)
        self.constants = {"lr": outer_lr, "momentum": outer_momentum, "late": 1}
        self.velocity = {name: np.zeros_like(w) for name, w in self.anchor.items()}

    def merge(self, name, mean):
        """The weights after an outer step with Nesterov's momentum."""
        kernels.momentum_update(self.anchor[name], mean, self.velocity[name], **self.constants)
        return self.anchor[name]


class EagerDiLoCo(DiLoCo):
    """DiLoCo whose means have a whole period to arrive in, and own moves that do not wait (Kale et al. 2025, eager).

        at the end of period h, layer by layer, with D_r this rank's difference, of which each rank has a P-th part:
            others = Wait(request of h - 1) - D_r(h - 1) / P      (0 in the first period)
            request of h = Iallreduce(D_r(h) / P)
            G = D_r(h) / P + others ; V_r = m V_r + a G ; anchor_r -= m V_r + a G ; w_r = anchor_r

    Ranks have anchors of their own. A drain takes in what is in flight, and averages.
    """

    options = tuple(option for option in DiLoCo.options if option is not DELAY)
    keeps, buffers = (*DiLoCo.keeps, "own", "others", "sums"), 2

    def __init__(self, net, queue, optimizer, period, outer_lr, outer_momentum):
        super().__init__(net, queue, optimizer, period, 0, outer_lr, outer_momentum)
        self.sums = 0  # that have been begun
        self.own, self.others = ({name: np.zeros_like(w) for name, w in self.anchor.items()} for _ in range(2))

    @classmethod
    def check(cls, ranks, **options):
        """Means have a period to arrive in, whatever it is."""

    def tell(self, layer):
        """At the end of a period take the others' last moves, send this rank's, and move by both."""
        if self.since + 1 < self.period:
            return
        name, ahead = layer.name, self.ahead[layer.name].w
        difference = self.channel.gradients(self.sums)[name]
        self.take_others(layer)
        np.subtract(self.anchor[name], ahead, out=difference)
        difference /= self.scale
        self.own[name][:] = difference
        ahead[:] = self.merge(name, self.own[name] + self.others[name])
        self.channel.post(self.sums, Part(name, g=difference))

    def step(self, t, batch):
        """The rank's own step; the last of a period begins a sum."""
        super().step(t, batch)
        if self.since == 0:
            self.sums += 1

    def take_others(self, layer):
        """What the other ranks have moved in the period before, when that has arrived."""
        for _, mean in self.channel.settle(layer, up_to=self.sums - 1):
            np.subtract(mean, self.own[layer.name], out=self.others[layer.name])

    def hear(self, layer):
        """The rank's own weights."""
        layer.w[:] = self.ahead[layer.name].w

    def drain(self):
        """Take in what is in flight, then the mean of all ranks' weights."""
        for layer in self.net.layers:
            self.take_others(layer)
            ahead, others = self.ahead[layer.name].w, self.others[layer.name]
            self.channel.gradients(self.sums)[layer.name][:] = (ahead - others) / self.scale
            others[:] = 0
        for layer in self.net.backward_layers:
            self.channel.post(self.sums, Part(layer.name, g=self.channel.gradients(self.sums)[layer.name]))
        for layer in self.net.layers:
            for _, mean in self.channel.settle(layer, up_to=self.sums):
                for w in (layer.w, self.ahead[layer.name].w, self.anchor[layer.name]):
                    w[:] = mean
        self.since, self.sums = 0, self.sums + 1


class Elastic(LocalSGD):
    """Ranks and a common centre are pulled towards each other (Zhang, Choromanska, LeCun 2015, EASGD, synchronous).

        every H-th step, layer by layer:   request[l] = Iallreduce((centre_l - w_r,l) / P)
        k steps later, before l is read:   w_r,l -= a (told_l - centre_l) ; centre_l -= a P Wait(request[l])

    A drain puts every rank at the centre, which is what is evaluated.
    """

    options = _period(10), DELAY, Option("elasticity", "pull on the centre, by all ranks", amount, 0.9)

    def __init__(self, net, queue, optimizer, period, delay, elasticity):
        super().__init__(net, queue, optimizer, period, delay)
        self.pull = elasticity  # of the centre, by all ranks; each is pulled by a P-th of that

    def merge(self, name, mean):
        """Pull the rank's weights towards the centre, and the centre towards all ranks."""
        own = self.told[name] - self.pull / self.scale * (self.told[name] - self.anchor[name])
        self.anchor[name] -= self.pull * mean
        return own

    def drain(self):
        """Put every rank at the centre."""
        super().drain()
        for layer in self.net.layers:
            layer.w[:] = self.ahead[layer.name].w[:] = self.anchor[layer.name]
