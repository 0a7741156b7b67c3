"""One-sided communication: ranks add their steps to weights in each other's memory."""

import collections

import numpy as np

from mpilayer.base.cli import Option, natural_or
from mpilayer.exchange.mailbox import Mailbox, PendingReplies
from mpilayer.schedules import shards
from mpilayer.schedules.base import CLIP_REFUSED, HOST_ONLY, Schedule
from mpilayer.schedules.notices import Notices
from mpilayer.schedules.shards import Part

STEPS, DONE = 0, 1 << 40  # what ranks tell of; more of it than any rank makes


class OneSided(Schedule):
    """Asynchronous SGD by MPI windows, passive target (Recht et al. 2011, Hogwild, in distributed memory).

        every rank's window holds a P-th of the weights
        for l = L..1: g_l = backward(l) ; d_l = this rank's step from g_l
                      request[l] = Rget_accumulate(d_l, SUM): fetch what is there, and add to it, each number at once
        next forward, just before layer l is read: w_l = Wait(request[l]) + d_l

    Momentum is each rank's own; the steps of all ranks add up to what momentum of the sum would do. With a bound of S
    ranks tell each other of every step, and none begins one that is more than S ahead of the slowest (Ho et al. 2013,
    stale synchronous parallel); without, no rank ever waits for another's step.
    """

    channel, host_only = Mailbox, HOST_ONLY
    options = (Option("staleness", "steps a rank may be ahead of another, or none for no bound", natural_or("none"),
                      "none", metavar="S"),)
    asynchronous = True
    refuses = {"clip": CLIP_REFUSED}
    wires, wires_because = ("float32",), "MPI's one-sided sums know the types of MPI only"
    keeps = "mine", "updates", "known", "made", "staleness"

    def __init__(self, net, mail, optimizer, staleness):
        self.size = mail.ranks.size
        self.shards = shards.shared_out(net, self.size)
        self.steps, self.fetched = ({name: Part(name, w) for name, w in shards.copy(net)[0].items()} for _ in range(2))
        super().__init__(net, mail, optimizer.over(self.steps.values()))
        self.fetches = PendingReplies(mail)
        self.places = {name: number for number, name in enumerate(self.shards)}
        self.known, self.count = np.zeros(len(self.shards), np.int64), np.zeros(len(self.shards), np.int64)
        self.staleness, self.made = collections.Counter(), 0
        mail.open(0)
        self._windows()
        self.bound, self.since = staleness, 0  # steps that were made since the last drain
        comm = mail.ranks.duplicate()
        mail.belongings.callback(comm.Free)
        self.notices, self.others = Notices(mail, comm), dict.fromkeys(range(self.size), 0)  # their steps
        del self.others[mail.ranks.rank]

    def _windows(self):
        """Of the weights, and of how often each layer was updated."""
        MPI, rank = self.channel.ranks.MPI, self.channel.ranks.rank
        self.begins = shards.cuts(self.net, self.size)
        self.own = slice(*self.begins[rank:rank + 2])
        self.mine = self.net.weights[self.own].copy()
        self.updates, self.one = np.zeros(len(self.shards), np.int64), np.ones(1, np.int64)
        self.window, self.counters = (MPI.Win.Create(memory, memory.itemsize, comm=self.channel.comm)
                                      for memory in (self.mine, self.updates))
        for window in (self.window, self.counters):
            window.Lock_all()
            self.channel.belongings.callback(window.Free)
            self.channel.belongings.callback(window.Unlock_all)

    def step(self, t, batch):
        """Forward takes the weights that were fetched, backward adds this rank's step to them."""
        self.channel.wait(self._near, "the slowest rank")
        for layer in self.net.forward(batch):
            self.take(layer)
            self.channel.test()
        for layer in self.net.backward():
            self.add(layer, t)
            self.channel.test()
        self.made += 1
        self._tell(self.since + 1)

    def _tell(self, steps):
        self.since = steps
        if self.bound != "none":
            self.notices.tell(STEPS, steps)

    def _slowest(self):
        """How many steps the slowest of the others has made."""
        for rank, _, steps in self.notices.heard():
            self.others[rank] = steps
        return min(self.others.values(), default=DONE)

    def _near(self):
        """Whether this rank may begin a step."""
        return self.bound == "none" or self.since - self._slowest() <= self.bound

    def add(self, layer, t):
        """Add this rank's step of a layer to the weights where they are, and fetch what was there."""
        name, step, fetched = layer.name, self.steps[layer.name], self.fetched[layer.name].w
        step.w[:] = layer.w
        self.optimizer.update(step, layer.g, t, scale=self.size, share=1 / self.size)
        step.w[:] -= layer.w
        came = self.fetches.expect(name, t, 1 + len(self.shards[name]))
        MPI = self.channel.ranks.MPI
        for shard in self.shards[name]:
            part, there = slice(shard.begin, shard.end), shard.at - self.begins[shard.owner]
            self.channel.watch(lambda part=part, there=there, shard=shard: self.window.Rget_accumulate(
                [step.w[part], MPI.FLOAT], [fetched[part], MPI.FLOAT], shard.owner,
                [there, shard.end - shard.begin, MPI.FLOAT], MPI.SUM), came)
        number = self.places[name]
        self.channel.watch(lambda: self.counters.Rget_accumulate(
            [self.one, MPI.INT64_T], [self.count[number:number + 1], MPI.INT64_T], self.shards[name][0].owner,
            [number, 1, MPI.INT64_T], MPI.SUM), came)

    def take(self, layer):
        """The weights that were there when this rank's step was added, and that step."""
        name, number = layer.name, self.places[layer.name]
        if self.fetches.arrived(name):
            np.add(self.fetched[name].w, self.steps[name].w, out=layer.w)
            self.staleness[int(self.count[number] - self.known[number])] += 1
            self.known[number] = self.count[number] + 1

    def restored(self):
        """What is in the windows was written there directly."""
        with self.channel.engine.held():
            for window in (self.window, self.counters):
                window.Sync()
            self.channel.ranks.meet()

    def drain(self):
        """When everybody's steps are in, take the weights as they are."""
        self._tell(DONE)
        if self.bound != "none":
            self.channel.wait(lambda: self._slowest() == DONE, "the others' last steps")
        for layer in self.net.layers:
            self.take(layer)
        with self.channel.engine.held():
            self.channel.ranks.meet()
            self.window.Sync()
        self.net.weights[self.own] = self.mine
        self.channel.assemble(self.net.weights, np.diff(self.begins))
        self.known[:] = self.channel.total(np.array([self.made], float))
        self.since, self.others = 0, dict.fromkeys(self.others, 0)
