"""Which parts of the effective batches of an epoch a rank computes, and how far all ranks have come."""

import math

from mpilayer.mpi.shared_counter import SharedCounter
from mpilayer.training.requests import NOTHING, SAVE


class OwnParts:
    """Each rank that computes has a part of every step: the one of its number.

    workers    ranks that compute, the first ones           requests   Requests, which may end a stretch early
    done       steps of the epoch that all have made        wanted     why the last stretch ended, if early
    """

    def __init__(self, ranks, schedule, workers, requests):
        self.ranks, self.schedule, self.workers, self.requests = ranks, schedule, workers, requests
        self.done, self.wanted = 0, NOTHING

    def stretch(self, steps, first):
        """Yield (step, part) for what this rank computes next of an epoch of so many steps, the first of which is
        number `first` of the run.
        """
        if self.ranks.rank < self.workers:
            for step in range(self.done, steps):
                yield step, self.ranks.rank

    def goes_on(self, t, first):
        """Whether the stretch does, after step t of the run."""
        self.done, self.wanted = t + 1 - first, self.requests.after_step(t + 1)
        return not self.wanted

    def end_stretch(self, steps):
        """Let the schedule come to rest, or drain it at the end of the epoch; whether that is its end."""
        if self.ranks.rank < self.workers and self.done < steps:
            self.schedule.rest()
        else:
            self.schedule.drain()
        if self.workers < self.ranks.size:  # the others have only served
            self.done, self.wanted = self.schedule.channel.bcast((self.done, self.wanted))
        return self.done == steps

    def close(self):
        """Nothing to give back."""


class NextParts:
    """A rank that is free takes the next part, whosever turn it is; `done` counts parts."""

    def __init__(self, ranks, schedule, workers, requests):
        self.ranks, self.schedule, self.workers, self.requests = ranks, schedule, workers, requests
        self.counter, self.done, self.wanted, self.left = SharedCounter(ranks, schedule.channel.engine), 0, NOTHING, 0

    def stretch(self, steps, first):
        """As of OwnParts. At its end each rank that computes has been given one part that it leaves."""
        self.counter.restart(self.done)
        every, begun = self.requests.steps, first + self.done // self.workers
        due = every * (begun // every + 1) - first if every else steps
        while self.ranks.rank < self.workers:
            if self.requests.own():
                self.counter.stop()
            self.left, stopped = self.counter.next()
            if stopped or self.left >= self.workers * min(due, steps):
                return
            yield divmod(self.left, self.workers)

    def goes_on(self, t, first):
        """Until there is no part."""
        return True

    def end_stretch(self, steps):
        """Drain the schedule; whether this is the end of the epoch."""
        self.schedule.drain()
        with self.schedule.channel.engine.held():
            left = self.ranks.least(self.left if self.ranks.rank < self.workers else math.inf)
            wanted = int(self.ranks.most(self.requests.own()))
        self.done = int(min(left, self.workers * steps))
        finished = self.done == self.workers * steps
        self.wanted = max(NOTHING if finished else SAVE, wanted)
        return finished

    def close(self):
        """Give back what MPI made for this."""
        self.counter.close()
