"""No collective at all: in every step each rank averages with one other."""

import numpy as np

from mpilayer.compression.codecs import CODECS
from mpilayer.exchange.mailbox import Mailbox, Message, PendingReplies
from mpilayer.schedules.base import HOST_ONLY
from mpilayer.schedules.local import Local


def partner(rank, size, number):
    """Whom a rank meets in a round, or None: in size - 1 rounds (size, if that is odd) it meets everyone once."""
    players = size + size % 2
    turn, last = number % max(1, players - 1), players - 1
    if rank == last:  # stays at its place; the others go around (the circle method of tournaments)
        other = next(r for r in range(last) if (turn - r) % last == r)
    else:
        other = (turn - rank) % last if last > 1 else last
        other = last if other == rank else other
    return other if other < size else None


class Gossip(Local):
    """Pairwise averaging on a rotating schedule (Lian et al. 2017, D-PSGD; Daily et al. 2018, GossipGraD).

        for l = L..1: g_l = backward(l) ; ahead_l = w_l - lr * P * g_l ; exchange ahead_l with the partner of this step
        next forward, just before layer l is read: w_l = ahead_l + (theirs_l - ahead_l) / 2

    The mean over the ranks is that of their steps; each rank's weights are somewhere around it. A drain takes the mean.
    """

    channel, host_only = Mailbox, HOST_ONLY
    wires = "float32", "bfloat16"
    wires_because = "weights are exchanged, and a few numbers or factors do not stand for those"
    keeps = "ahead", "round"

    def __init__(self, net, mailbox, optimizer):
        super().__init__(net, mailbox, optimizer)
        codec, self.round = CODECS[mailbox.settings.wire], 0
        self.mine, self.theirs = ({layer.name: Message(layer.w.size, codec) for layer in net.layers} for _ in range(2))
        self.tags = {layer.name: tag for tag, layer in enumerate(net.layers)}
        self.exchanges = PendingReplies(mailbox)
        mailbox.open(len(self.tags))

    def step(self, t, batch):
        """A step in which the layers are exchanged with the next partner."""
        self.partner = partner(self.channel.ranks.rank, self.channel.ranks.size, self.round)
        super().step(t, batch)
        self.round += 1

    def tell(self, layer):
        """Start the exchange of a layer with the partner of this step."""
        if self.partner is None:
            return
        name, tag = layer.name, self.tags[layer.name]
        came = self.exchanges.expect(name, self.now, 2)
        self.channel.receive(self.theirs[name], self.partner, tag, came)
        self.channel.send(self.mine[name].write(self.ahead[name].w), self.partner, tag, came)

    def hear(self, layer):
        """Take the mean of both weights. Of our own the rounded ones count, which the partner read: so the mean over
        the ranks stays what it was.
        """
        name = layer.name
        layer.w[:] = self.ahead[name].w
        if self.exchanges.arrived(name):
            layer.w += np.float32(0.5) * (self.theirs[name].read() - self.mine[name].read())

    def rest(self):
        """Take what is on its way, as the next forward would."""
        for layer in self.net.layers:
            self.hear(layer)
            self.ahead[layer.name].w[:] = layer.w

    def drain(self):
        """Give every rank the mean of all ranks' weights."""
        self.rest()
        self.channel.mean(self.net.weights)
        for layer in self.net.layers:
            self.ahead[layer.name].w[:] = layer.w
