"""Parameter servers: weights live elsewhere; gradients are sent there, new weights come back."""

import functools

import numpy as np

from mpilayer.base.cli import Option, natural, natural_or
from mpilayer.base.errors import UserError
from mpilayer.compression.codecs import CODECS
from mpilayer.exchange.mailbox import Mailbox, Message, PendingReplies
from mpilayer.schedules import shards
from mpilayer.schedules.base import CLIP_REFUSED, HOST_ONLY, Schedule
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
    weights are cut into as many equal parts as there are servers: the last `--servers` ranks, or all workers as well;
    for an optimizer that wants whole layers, such as Muon, between layers. So each rank makes a part of all updates.
    """

    channel, host_only, own_pace = Mailbox, HOST_ONLY, True
    options = (Option("staleness", "steps a rank may be ahead of another, or none for no bound; 0 sums all ranks'"
                      " gradients", natural_or("none"), 0, metavar="S"),
               Option("servers", "ranks, the last ones, that do nothing else; 0: all ranks serve and compute", natural,
                      0, metavar="N"))
    refuses = {"clip": CLIP_REFUSED, "weight_prediction": "how late a gradient will be, nobody knows before"}
    late, keeps = True, ("server",)
    wires = "float32", "bfloat16"
    wires_because = "answers are weights, and a few numbers or factors do not stand for those"

    @staticmethod
    def servers(servers, **others):
        """Ranks that do nothing else."""
        return servers

    @classmethod
    def check(cls, ranks, servers, **others):
        """Raise UserError if no rank is left to compute."""
        if servers >= ranks:
            raise UserError(f"--servers {servers} leave none of the {ranks} ranks to compute"
                            f" | try: mpiexec -n {servers + 1}, or --servers 0, where ranks do both")

    def __init__(self, net, mail, optimizer, staleness, servers):
        super().__init__(net, mail, optimizer)
        self.asynchronous = staleness != 0
        rank, size, codec = mail.ranks.rank, mail.ranks.size, CODECS[mail.settings.wire]
        self.workers = size - servers
        first = size - (servers or size)  # of the servers
        self.shards = {name: [shard._replace(owner=first + shard.owner) for shard in found]
                       for name, found in shards.shared_out(net, size - first, self.optimizer.whole_layers).items()}
        tags = {name: tag for tag, name in enumerate(self.shards)}  # a server has one shard of a layer
        self.messages = {name: [(shard, tags[name], Message(shard.end - shard.begin, codec)) for shard in found]
                        for name, found in self.shards.items()}
        self.answers = PendingReplies(mail)
        mine = {tags[name]: Part(name, self._weights(name, shard).copy())
                for name, found in self.shards.items() for shard in found if shard.owner == rank}
        self.server = Server(mail, mine, optimizer, codec, self.workers, staleness, len(tags))
        self.owners = range(first, size)
        mail.open(len(tags) + 1, self.server.arrived)

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
            self.channel.test()
        for layer in self.net.backward():
            self.push(layer, t)
            self.channel.test()

    def push(self, layer, t):
        """Send, then wait in the same messages for the answers."""
        messages = self.messages[layer.name]
        came = self.answers.expect(layer.name, t, len(messages))
        for shard, tag, message in messages:
            message.write(layer.g[shard.begin:shard.end], t)
            receive = functools.partial(self.channel.receive, message, shard.owner, tag, came)
            self.channel.send(message, shard.owner, tag, receive, to_server=True)

    def pull(self, layer):
        """What the servers answered."""
        if self.answers.arrived(layer.name):
            for shard, _, message in self.messages[layer.name]:
                layer.w[shard.begin:shard.end] = message.read()

    def rest(self):
        """Drain; but what the servers answered was rounded, so of a step that waits for all ranks that is kept."""
        for layer in self.net.layers:
            self.pull(layer)
        own = self.net.weights.copy()
        self.drain()
        if not self.asynchronous:
            self.net.weights[:] = own

    def drain(self):
        """Serve until all workers have come here; then take the weights as they are."""
        if self.channel.ranks.rank < self.workers:
            for layer in self.net.layers:
                self.pull(layer)
            bye = Message(0, CODECS["float32"])
            for owner in self.owners:
                self.channel.send(bye, owner, self.server.goodbye, to_server=True)
        self.channel.resume()  # a rank that only serves has sent nothing yet
        self.channel.wait(lambda: self.server.idle and not self.channel.pending, "all workers")
        self.server.begin_again()
        self._take_all()

    def _take_all(self):
        for found in self.messages.values():
            for shard, tag, _ in found:
                if shard.owner == self.channel.ranks.rank:
                    self.net.weights[shard.at:shard.at + shard.end - shard.begin] = self.server.parts[tag].w
        counts = np.diff(shards.cuts(self.net, len(self.owners), self.optimizer.whole_layers))
        self.channel.assemble(self.net.weights, [0] * self.owners.start + counts.tolist())
