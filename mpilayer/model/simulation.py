"""Discrete events: ranks that compute, post messages and wait for them, and a link that carries one after the other."""

import heapq
import itertools
import math
from collections import Counter, deque
from typing import Any, NamedTuple


class Message(NamedTuple):
    """What is summed over the ranks, or sent: it may go when all ranks have posted it.

    key    (step, number), which names it           size   bytes of float32
    due    of the messages that may go, the least goes first
    then   the Message that may go when this one has arrived, or None
    part   of a sum's latency that it takes; None of what goes from rank to rank
    """

    key: tuple
    size: float
    due: Any = 0
    then: Any = None
    part: Any = 1.0


class Wait(NamedTuple):
    """Until a message has arrived."""

    key: tuple


class End(NamedTuple):
    """Of a training step."""


class Rank:
    """One that runs a program: an iterator of seconds of computing, Message (it is posted), Wait and End."""

    def __init__(self, program):
        self.program, self.left, self.awaits, self.running = iter(program), 0.0, None, True
        self.waited, self.ends = 0.0, []

    @property
    def computing(self):
        """Whether it is."""
        return self.left > 0


class Simulation:
    """Of programs, one for each rank, on a Wire. With `in_order`, messages of a step go in the order of due, and none
    is overtaken: those of a step are so many.
    """

    def __init__(self, programs, wire, in_order=0):
        self.ranks, self.wire, self.in_order = [Rank(program) for program in programs], wire, in_order
        self.now, self.ready, self.posted, self.arrived, self.arriving = 0.0, [], Counter(), set(), []
        self.flying, self.share, self.count, self.started = deque(), 1.0, itertools.count(), []
        self.credit, self.free = wire.credit, 0.0  # bytes that would pass at once, and of the message that has begun

    def run(self):
        """Until all programs have ended; the ranks."""
        while True:
            while any([self._arrive(), *map(self._go_on, self.ranks)]) or self._start():
                pass
            if not any(rank.running for rank in self.ranks):
                return self.ranks
            self._pass()

    def _go_on(self, rank):
        """What a rank does that takes no time; whether it did anything."""
        if rank.computing or not rank.running or (rank.awaits and rank.awaits not in self.arrived):
            return False
        rank.awaits, action = None, next(rank.program, None)
        if action is None:
            rank.running = False
        elif isinstance(action, Message):
            self._post(action)
        elif isinstance(action, Wait):
            rank.awaits = action.key
        elif isinstance(action, End):
            rank.ends.append((self.now, rank.waited))
        else:
            rank.left = action
        return True

    def _post(self, message):
        self.posted[message.key] += 1
        if self.posted[message.key] == len(self.ranks):
            del self.posted[message.key]
            heapq.heappush(self.ready, (message.due, next(self.count), message))

    def _start(self):
        """The next message, if there is a lane for it: it is not overtaken any more, though it may not move yet."""
        if len(self.flying) == self.wire.lanes or not self.ready:
            return False
        if self.in_order and self.ready[0][2].key != self._next_in_order():
            return False
        *_, message = heapq.heappop(self.ready)
        self.flying.append(message)
        self.started.append(message.key)
        return True

    def _next_in_order(self):
        return divmod(len(self.started), self.in_order)

    def _arrive(self):
        if not self.arriving or self.arriving[0][0] > self.now:
            return False
        *_, message = heapq.heappop(self.arriving)
        self.arrived.add(message.key)
        if message.then:
            heapq.heappush(self.ready, (message.then.due, next(self.count), message.then))
        return True

    def _pass(self):
        """Let time pass until something happens."""
        computing = any(rank.computing for rank in self.ranks)
        self._begin()
        first = self.flying[0] if self.flying else None
        speed = self.wire.speed(first.size, self.free, first.part) if first else 1.0
        whole = self.wire.occupied(first.size, computing, self.free, first.part) if first else math.inf
        until = [rank.left / speed for rank in self.ranks if rank.computing]
        until += [self.share * whole] if self.flying else []
        until += [self.arriving[0][0] - self.now] if self.arriving else []
        if not until:
            waiting = [rank.awaits for rank in self.ranks if rank.awaits]
            raise RuntimeError(f"ranks wait for {waiting}, which nobody sends | expected a program that posts it")
        seconds = min(until)
        self.now += seconds
        for rank in self.ranks:
            if rank.computing:
                rank.left = 0.0 if rank.left / speed <= seconds else rank.left - seconds * speed
            elif rank.running:
                rank.waited += seconds
        if self.flying and self.share * whole <= seconds:
            message, self.share = self.flying.popleft(), 1.0
            due = self.now + self.wire.lag(message.size, computing, message.part)
            heapq.heappush(self.arriving, (due, next(self.count), message))
        elif self.flying and whole:
            self.share -= seconds / whole
        else:
            self.credit = self.wire.refilled(self.credit, seconds)

    def _begin(self):
        """The first of the messages in flight begins to move."""
        if self.flying and self.share == 1.0:
            self.free = min(self.credit, self.flying[0].size)
            self.credit -= self.free
