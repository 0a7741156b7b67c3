"""What keeps weights, changes them by gradients that arrive, and answers with new ones."""

import collections

import numpy as np

from mpilayer.compression.codecs import CODECS
from mpilayer.exchange.mailbox import Message


class Server:
    """Keeps `parts` {tag: Part} of the weights and answers every worker's gradients of them.

    staleness: how many others' updates a part had seen since the worker was told the weights, counted
    """

    keeps = "parts", "optimizer", "updates", "known", "told", "staleness"

    def __init__(self, mail, parts, optimizer, codec, workers, bound, goodbye):
        self.mail, self.parts, self.workers, self.bound, self.goodbye = mail, parts, workers, bound, goodbye
        self.optimizer = optimizer.over(parts.values())
        self.messages = {(worker, tag): Message(part.w.size, codec) for worker in range(workers)
                        for tag, part in parts.items()}
        self.updates, self.known = dict.fromkeys(parts, 0), dict.fromkeys(self.messages, 0)
        self.told = {key: self.parts[key[1]].w.copy() for key in self.messages} if optimizer.delay_compensation else {}
        self.clocks = {tag: np.zeros(workers) for tag in parts}  # steps of which a worker has sent its gradient
        self.waiting = {tag: [] for tag in parts}  # workers that have not been answered
        self.staleness, self.gone = collections.Counter(), 0

    @property
    def idle(self):
        """Whether all workers have gone; a rank that serves nothing is idle."""
        return not self.parts or self.gone == self.workers

    def begin_again(self):
        """Workers are back, and know the weights."""
        self.gone = 0
        for worker, tag in self.messages:
            self.known[worker, tag] = self.updates[tag]
            if self.told:
                self.told[worker, tag][:] = self.parts[tag].w
        for clock in self.clocks.values():
            clock[:] = 0

    def arrived(self, worker, tag, probed):
        """A worker's message has come."""
        if tag == self.goodbye:
            self.mail.accept(probed, Message(0, CODECS["float32"]), lambda: self._left(worker))
        else:
            self.mail.accept(probed, self.messages[worker, tag], lambda: self._received(worker, tag))

    def _left(self, worker):
        self.gone += 1
        for tag, clock in self.clocks.items():
            clock[worker] = np.inf
            self._answer(tag)

    def _received(self, worker, tag):
        self.clocks[tag][worker] += 1
        self.waiting[tag].append(worker)
        if self.bound == 0:
            self._sum(tag)
        else:
            self._apply(worker, tag)
            self._answer(tag)

    def _sum(self, tag):
        """Once all are there: one step, and an answer to everyone."""
        if len(self.waiting[tag]) == self.workers:
            total = self.messages[0, tag].read()
            for worker in range(1, self.workers):
                total += self.messages[worker, tag].read()
            self.staleness[0] += self.workers
            self.optimizer.update(self.parts[tag], total, self.messages[0, tag].step)
            self._answer(tag)

    def _apply(self, worker, tag):
        """A part of a step, at once."""
        key, part = (worker, tag), self.parts[tag]
        late = self.updates[tag] - self.known[key]
        self.staleness[late] += 1
        self.optimizer.update(part, self.messages[key].read(), self.messages[key].step, late, scale=self.workers,
                              share=1 / self.workers, weights_at_gradient=self.told.get(key))
        self.updates[tag] += 1

    def _answer(self, tag):
        """Send new weights to the workers that may go on."""
        clock, slowest = self.clocks[tag], self.clocks[tag].min()
        free = [worker for worker in self.waiting[tag] if self.bound == "none" or clock[worker] - slowest <= self.bound]
        self.waiting[tag] = [worker for worker in self.waiting[tag] if worker not in free]
        for worker in free:
            self.known[worker, tag] = self.updates[tag]
            if self.told:
                self.told[worker, tag][:] = self.parts[tag].w
            self.mail.send(self.messages[worker, tag].write(self.parts[tag].w), worker, tag)
