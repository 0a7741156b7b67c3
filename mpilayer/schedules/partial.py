"""All-reduces that do not wait for slow ranks: a late gradient goes with the next one."""

import collections

import numpy as np

from mpilayer.base.cli import Option, count
from mpilayer.base.errors import UserError
from mpilayer.schedules import shards
from mpilayer.schedules.base import Schedule
from mpilayer.schedules.notices import Notices
from mpilayer.schedules.shards import Part

PATIENCE = 0.1  # of the time that its gradient took, for which a rank waits for those of others
SELDOM = 64  # gradients at most, of which one waits ten times as long
READY, WAITED, FINISHED = range(3)  # what ranks tell: of a round, or of a drain, by number
CLIP = "what is summed in a round is the gradient of no one step"


class Partial(Schedule):
    """Sums of those who are ready (Li et al. 2020, eager-SGD; backup workers, Chen et al. 2016, drop what is late).

        a rank with a gradient tells all: I have one for round r ; after a while: I have waited
        round r begins on a rank that knows of a gradient of all ranks, or of `quorum` ranks, one of which has waited:
            G = Allreduce(own gradient if the rank has told of one, else 0) ; w -= lr * G
        a rank that is still computing takes part with nothing, updates a copy of its weights, and goes on computing
        a rank with a gradient waits for the round that takes it

    A while is a tenth of the time that the gradient took, and now and then all of it: so ranks of one speed come to sum
    all gradients together, as one-shot does. Each time that this was in vain it is done half as often, each time that
    all came twice as often. No gradient is lost, and none is summed twice; all ranks apply the same sums in the same
    order. With all ranks for a quorum it is one-shot.
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
        queue.engine_alone = False  # notices come another way: who waits must look for them
        self.sums = queue.gradients(0)
        self.notices = Notices(queue, queue.calls.comm("partial"))
        self.told = collections.defaultdict(set)  # {(kind, number): ranks that have said so}
        self.counts, self.counting = np.zeros(2), None  # gradients in a round, and the sum of their steps
        self.ready = self.running = self.taken = self.waited = False
        self.round = self.at = self.missed = self.drains = 0
        self.patient_until, self.every, self.since = 0.0, 1, 0  # how often a gradient waits longer; how many have not
        self.staleness = collections.Counter()

    @classmethod
    def check(cls, ranks, quorum):
        """Raise UserError for more ranks than there are."""
        if (quorum or 1) > ranks:
            raise UserError(f"--quorum {quorum}: there are {ranks} ranks")

    def step(self, t, batch):
        """Compute, taking part in rounds meanwhile; then wait for the round that takes the gradient."""
        begin = self.channel.trace.now()
        self.net.write_gradients_to(1)
        for layer in self.net.layers:
            layer.w[:] = self.ahead[layer.name].w
        self.missed = 0
        for layers in (self.net.forward(batch), self.net.backward()):
            for _ in layers:
                self.channel.test()
                self.turn()
        self.channel.wait(self.turning(self.channel.reached()), "the gradient", "waiting")  # a GPU may be behind
        now, self.since = self.channel.trace.now(), (self.since + 1) % self.every
        self.patient_until = now + (1 if self.since == 0 else PATIENCE) * (now - begin)
        self.ready, self.waited, self.at = True, False, t
        if not self.running:
            self._tell(READY, self.round)
        self.channel.wait(lambda: self.turn() or not (self.ready or self.running), "the round")

    def turning(self, done):
        """A function that does what can be done, and tells whether something is done."""
        def turned():
            self.turn()
            return done()

        return turned

    def turn(self):
        """Do what can be done: hear the others, end a round, begin one."""
        for rank, kind, number in self.notices.heard():
            self.told[kind, number].add(rank)
        if self.running and self._has_come():
            self._end_round()
        if self.ready and not (self.running or self.waited) and self.channel.trace.now() > self.patient_until:
            self.waited = True
            self._tell(WAITED, self.round)
        if not self.running and self._may_begin():
            self._begin_round()

    def _tell(self, kind, number):
        self.told[kind, number].add(self.channel.ranks.rank)
        self.notices.tell(kind, number)

    def _may_begin(self):
        """Once a rank may begin a round, all will, for they will hear the same."""
        ready, finished = self.told[READY, self.round], self.told[FINISHED, self.drains]
        present = len(ready | finished)
        enough = self.told[WAITED, self.round] and present >= self.quorum
        return ready and (enough or present == self.channel.ranks.size)

    def _begin_round(self):
        """Everyone takes part, with a gradient or without."""
        self.running, self.taken = True, self.channel.ranks.rank in self.told[READY, self.round]
        self.counts[:] = self.taken, self.at * self.taken
        with self.channel.engine.held():
            self.counting = self.notices.comm.Iallreduce(self.channel.ranks.MPI.IN_PLACE, self.counts)
        for layer in self.net.backward_layers:
            total = self.sums[layer.name]
            total[:] = layer.g if self.taken else 0
            self.channel.post(self.round, Part(layer.name, g=total))

    def _has_come(self):
        """Whether the sums of the round are there."""
        if not all(self.channel.has_arrived(layer.name, self.round) for layer in self.net.layers):
            return False
        with self.channel.engine.held():
            return self.counting.Test()

    def _end_round(self):
        """Apply it: a part of a step, if not all took part."""
        size, (by, steps) = self.channel.ranks.size, self.counts
        for layer in self.net.layers:
            for _, total in self.channel.settle(layer, up_to=self.round):
                self.optimizer.update(self.ahead[layer.name], total, round(steps / by), scale=size / by,
                                      share=by / size)
        if self.taken:
            self.staleness[self.missed] += 1
            self.ready = False
            if self.since == 0:
                self.every = max(1, self.every // 2) if by == size else min(2 * self.every, SELDOM)
        else:
            self.missed += 1
        for kind in (READY, WAITED):
            self.told.pop((kind, self.round), None)
        self.running, self.round, self.waited = False, self.round + 1, False
        if self.ready:
            self._tell(READY, self.round)

    def drain(self):
        """Take part until nobody has a gradient left."""
        self._tell(FINISHED, self.drains)
        finished = self.told[FINISHED, self.drains]
        self.channel.wait(lambda: self.turn() or (len(finished) == self.channel.ranks.size and not self.running),
                          "the others' last rounds")
        self.told.pop((FINISHED, self.drains))
        self.drains += 1
        for layer in self.net.layers:
            layer.w[:] = self.ahead[layer.name].w
