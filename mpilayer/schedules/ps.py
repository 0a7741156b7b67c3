"""Parameter servers: weights live elsewhere; gradients are sent there, new weights come back."""

import functools

import numpy as np

from mpilayer.compression.codecs import CODECS
from mpilayer.exchange.mailbox import Awaited, Letter, Mail
from mpilayer.schedules import shards as weights
from mpilayer.schedules.base import Schedule
from mpilayer.schedules.local import CLIP, ONLY_HERE
from mpilayer.schedules.server import Server
from mpilayer.schedules.shards import Part


class ParameterServer(Schedule):
    """Workers push gradients and pull weights, layer by layer (Dean et al. 2012, DistBelief; Li et al. 2014).

        worker:   for l = L..1: g_l = backward(l) ; send g_l to the servers of l ; the answer will be new weights
                  next forward, just before layer l is read: w_l = Wait(answer)
        server:   at a gradient of step c, by --staleness:
                  0          keep it ; when all workers' are there: w -= lr * sum, in rank order ; answer all
                  S or none  w -= lr * g at once ; answer when every worker has sent its of step c - S

    With a bound of S no worker is more than S steps ahead of another (Ho et al. 2013, stale synchronous parallel). The
    weights are cut into as many equal parts as there are servers: the last `--servers` ranks, or all workers as well.
    """

    traffic = Mail
    only_here = ONLY_HERE
    takes = {"staleness": 0, "servers": 0}
    refuses = {"clip": CLIP}
    wires = "float32", "bfloat16"
    wires_because = "answers are weights, and a few numbers or factors do not stand for those"

    @staticmethod
    def servers(options):
        """Ranks that do nothing else."""
        return options.servers

    def __init__(self, net, mail, optimizer, options):
        self.net, self.mail, self.asynchronous = net, mail, options.staleness != 0
        rank, size, codec = mail.ranks.rank, mail.ranks.size, CODECS[mail.settings.wire]
        self.workers = size - options.servers
        first = size - (options.servers or size)  # of the servers
        self.shards = {name: [shard._replace(owner=first + shard.owner) for shard in found]
                       for name, found in weights.shards(net, size - first).items()}
        tags = {(name, shard): tag for tag, (name, shard) in enumerate(
            (name, shard) for name, found in self.shards.items() for shard in found)}
        self.letters = {name: [(shard, tags[name, shard], Letter(shard.end - shard.begin, codec)) for shard in found]
                        for name, found in self.shards.items()}
        self.answers = Awaited(mail)
        mine = {tags[key]: Part(f"{key[0]} {key[1].begin}", self._weights(*key).copy()) for key in tags
                if key[1].owner == rank}
        self.server = Server(mail, mine, optimizer, codec, self.workers, options.staleness, len(tags))
        self.owners = range(first, size)
        mail.open(self.server.arrived)

    def _weights(self, name, shard):
        return next(layer.w for layer in self.net.layers if layer.name == name)[shard.begin:shard.end]

    @property
    def staleness(self):
        """Of this rank's part of the weights."""
        return self.server.staleness

    def step(self, t, batch):
        """Forward pulls, backward pushes."""
        for layer in self.net.forward(batch):
            self.pull(layer)
            self.mail.test()
        for layer in self.net.backward():
            self.push(layer, t)
            self.mail.test()

    def push(self, layer, t):
        """Send, then wait in the same letters for the answers."""
        letters = self.letters[layer.name]
        came = self.answers.expect(layer.name, t, len(letters))
        for shard, tag, letter in letters:
            letter.write(layer.g[shard.begin:shard.end], t)
            receive = functools.partial(self.mail.receive, letter, shard.owner, tag, came)
            self.mail.send(letter, shard.owner, tag, receive, desk=True)

    def pull(self, layer):
        """What the servers answered."""
        if self.answers.arrived(layer.name):
            for shard, _, letter in self.letters[layer.name]:
                layer.w[shard.begin:shard.end] = letter.read()

    def drain(self):
        """Serve until all workers have come here; then take the weights as they are."""
        if self.mail.ranks.rank < self.workers:
            for layer in self.net.layers:
                self.pull(layer)
            bye = Letter(0, CODECS["float32"])
            for owner in self.owners:
                self.mail.send(bye, owner, self.server.goodbye, desk=True)
        self.mail.wait(lambda: self.server.idle and not self.mail.pending, "all workers")
        self.server.begin_again()
        self._take_all()

    def _take_all(self):
        for found in self.letters.values():
            for shard, tag, _ in found:
                if tag in self.server.parts:
                    self.net.weights[shard.at:shard.at + shard.end - shard.begin] = self.server.parts[tag].w
        counts = np.diff(weights.cuts(self.net, len(self.owners)))
        self.mail.assemble(self.net.weights, [0] * self.owners.start + counts.tolist())
