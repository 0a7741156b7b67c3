"""All-reduces that do not wait for slow ranks: a late gradient goes with the next one."""

import collections

import numpy as np

from mpilayer.base.cli import Option, count
from mpilayer.base.errors import UserError
from mpilayer.schedules import shards
from mpilayer.schedules.base import Schedule
from mpilayer.schedules.shards import Part

CLIP = "what is summed in a round is the gradient of no one step"


class Partial(Schedule):
    """Sums of those who are ready (Li et al. 2020, eager-SGD; backup workers, Chen et al. 2016, drop what is late).

        vote, over and over, whenever MPI is looked at: how many ranks have a gradient?
        at `quorum` of them: G = Allreduce(own gradient if there is one, else 0) ; w -= lr * G
        a rank that is still computing takes part with nothing, updates a copy of its weights, and goes on computing
        a rank with a gradient waits for the round that takes it

    No gradient is lost, and none is summed twice; all ranks apply the same sums in the same order. With all ranks for a
    quorum it is one-shot.
    """

    options = (Option("quorum", "ranks that a sum waits for (default: all but one)", count, metavar="N"),)
    asynchronous = True
    refuses = {"clip": CLIP}
    keeps = "ahead", "round", "missed", "staleness"

    def __init__(self, net, queue, optimizer, quorum):
        self.ahead = {name: Part(name, w) for name, w in shards.copy(net)[0].items()}
        super().__init__(net, queue, optimizer.over(self.ahead.values()))
        self.quorum = quorum or max(1, queue.ranks.size - 1)
        queue.open()
        self.sums = queue.gradients(0)
        self.vote_comm, self.counts, self.vote = queue.calls.comm("partial"), np.zeros(3), None
        self.ready = self.finished = self.running = self.taken = self.over = False
        self.round = self.at = self.missed = 0
        self.staleness = collections.Counter()

    @classmethod
    def check(cls, ranks, quorum):
        """Raise UserError for more ranks than there are."""
        if (quorum or 1) > ranks:
            raise UserError(f"--quorum {quorum}: there are {ranks} ranks")

    def step(self, t, batch):
        """Compute, voting meanwhile; then wait for the round that takes the gradient."""
        self.net.write_gradients_to(1)
        for layer in self.net.layers:
            layer.w[:] = self.ahead[layer.name].w
        self.missed = 0
        for layers in (self.net.forward(batch), self.net.backward()):
            for _ in layers:
                self.channel.test()
                self.turn()
        self.channel.wait(self.turning(self.channel.reached()), "the gradient", "waiting")  # a GPU may be behind
        self.ready, self.at = True, t
        self.channel.wait(lambda: self.turn() or not (self.ready or self.running), "the round")

    def turning(self, done):
        """A function that does what can be done, and tells whether something is done."""
        def turned():
            self.turn()
            return done()

        return turned

    def turn(self):
        """Do what can be done: end a round, or begin a vote, or count it and begin a round."""
        if self.running:
            if all(self.channel.has_arrived(layer.name, self.round) for layer in self.net.layers):
                self._end_round()
        elif self.vote is None:
            self._cast()
        else:
            with self.channel.engine.held():
                counted = self.vote.Test()
            if counted:
                self._count()

    def _cast(self):
        """Ranks with a gradient, ranks that have no more, and the sum of the former's steps."""
        if not self.over:
            self.taken = self.ready
            self.counts[:] = self.ready, self.finished, self.at * self.ready
            with self.channel.engine.held():
                self.vote = self.vote_comm.Iallreduce(self.channel.ranks.MPI.IN_PLACE, self.counts)

    def _count(self):
        self.vote, (ready, finished, steps) = None, self.counts
        if ready and ready + finished >= self.quorum:
            self._begin_round(ready, round(steps / ready))
        self.over = finished == self.channel.ranks.size

    def _begin_round(self, ready, step):
        """Everyone takes part, with a gradient or without."""
        self.running, self.of, self.by = True, step, int(ready)
        for layer in self.net.backward_layers:
            total = self.sums[layer.name]
            total[:] = layer.g if self.taken else 0
            self.channel.post(self.round, Part(layer.name, g=total))

    def _end_round(self):
        """Apply it: a part of a step, if not all took part."""
        size = self.channel.ranks.size
        for layer in self.net.layers:
            for _, total in self.channel.settle(layer, up_to=self.round):
                self.optimizer.update(self.ahead[layer.name], total, self.of, scale=size / self.by,
                                      share=self.by / size)
        if self.taken:
            self.staleness[self.missed] += 1
            self.ready = False
        else:
            self.missed += 1
        self.running, self.round = False, self.round + 1

    def drain(self):
        """Take part until nobody has a gradient left."""
        self.finished = True
        self.channel.wait(lambda: self.turn() or self.over, "the others' last rounds")
        self.finished = self.over = False
        for layer in self.net.layers:
            layer.w[:] = self.ahead[layer.name].w
