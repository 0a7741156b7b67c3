"""What each rank measures, gathered by the first one every so many steps, and compared at the end."""

import socket
from typing import NamedTuple

import numpy as np

from mpilayer.base.tracing import MOST_SHOWN

EVERY = 50  # steps from one reading to the next
FIELDS = "steps", "samples", "seconds", "compute", "exposed", "loss"
WAITING = "wait "  # how the name of an event begins in which a layer's sum is waited for


class Reading(NamedTuple):
    """What the first rank knows after so many steps of the run: of all ranks that compute, since the last one.

    table      (ranks, FIELDS) float64: steps and samples; seconds in all, of computing, and exposed; its part of the
               losses
    durations  (steps,) seconds of each step of this rank      staleness   mean of this rank's updates so far, or None
    """

    step: int
    table: np.ndarray
    durations: np.ndarray
    staleness: float | None

    def of(self, field):
        """(ranks,) of one of the FIELDS."""
        return self.table[:, FIELDS.index(field)]


class Meter:
    """Of a run; all ranks make it, and call its methods, together.

    schedule    of mpilayer.make_schedule      workers   ranks that compute, the first ones
    listeners   functions that the first rank calls with each Reading
    """

    def __init__(self, ranks, schedule, workers, listeners=(), every=EVERY):
        self.ranks, self.schedule, self.channel, self.trace = ranks, schedule, schedule.channel, schedule.channel.trace
        self.workers, self.listeners, self.every = workers, listeners, every
        self.comm, self.request, self.steps, self.samples = ranks.split(ranks.rank < workers), None, 0, 0
        self.totals = dict.fromkeys((*self.trace.kinds, "total"), 0.0)
        self.everyone = np.zeros((workers if ranks.rank == 0 else 0, len(FIELDS)))
        self.begin()
        self._restart()

    def begin(self):
        """The first step begins now, or the first one after a pause."""
        self.last = self.trace.now()

    def _restart(self):
        self.mine, self.durations = np.zeros(len(FIELDS)), []
        self.before = self._so_far()

    def _so_far(self):
        return np.array([sum(self.trace.spent["compute"].values()), self.trace.exposed])

    def after_step(self, done, samples, loss):
        """This rank has made a step on so many samples, and known is its part of a loss; the run has made `done`."""
        now = self.trace.now()
        self.durations.append(now - self.last)
        self.last, self.steps, self.samples = now, self.steps + 1, self.samples + samples
        self.mine += 1, samples, self.durations[-1], 0, 0, loss
        if len(self.durations) == self.every and not self.schedule.asynchronous:  # whose ranks make as many as they can
            self._gather(done)

    def after_epoch(self, done, total):
        """All are here, and the epoch has taken this rank so many seconds."""
        for kind, seconds in (*self.trace.seconds.items(), ("total", total)):
            self.totals[kind] += seconds
        if self.ranks.rank < self.workers:
            self._gather(done)
            self._finish()

    def close(self):
        """Give the communicator back."""
        self._finish()
        self.comm.Free()

    def _gather(self, done):
        self._finish()
        self.mine[3:5] = self._so_far() - self.before
        staleness = self.schedule.staleness
        mean = sum(n * times for n, times in staleness.items()) / staleness.total() if staleness else None
        self.coming, self.sent = (done, np.array(self.durations), mean), self.mine
        with self.channel.engine.held():
            self.request = self.comm.Igather(self.sent, self.everyone)
        self._restart()

    def _arrived(self):
        with self.channel.engine.held():
            return self.request.Test()

    def _finish(self):
        if self.request is None:
            return
        self.channel.wait(self._arrived, "what all ranks have measured")
        self.request, (done, durations, staleness) = None, self.coming
        for listen in self.listeners if self.ranks.rank == 0 and len(durations) else ():
            listen(Reading(done, self.everyone.copy(), durations, staleness))

    def end(self):
        """What run.json says of the ranks since the run was last started: `slowest`, None of one rank; `ranks`, the
        seconds of each by kind, or of MOST_SHOWN of many; `layers`, seconds a step.
        """
        rows = self.ranks.gather_to_first({
            "rank": self.ranks.rank, "host": socket.gethostname(), "steps": self.steps, "samples": self.samples,
            "seconds": self.totals})
        slow, shown = self.ranks.bcast(rows and self._compared(rows))
        return {"slowest": slow, "ranks": shown, "layers": self._layers(slow["rank"] if slow else 0)}

    def _compared(self, rows):
        """(which is slowest, or None; the rows that are shown)."""
        columns = [[row["steps"], row["samples"], row["seconds"]["compute"]] for row in rows[:self.workers]]
        found = slowest(*np.array(columns).T)
        slow = found and {"rank": found[0], "host": rows[found[0]]["host"], "times": found[1]}
        shown = {*np.linspace(0, len(rows) - 1, MOST_SHOWN).astype(int).tolist(), *(found or ())[:1]}
        return slow, [row for row in rows if row["rank"] in shown]

    def _layers(self, rank):
        """{event's name: {"mean": seconds a step over the ranks, "slowest": of that rank}} of computing and waiting."""
        spent = self.trace.spent
        waits = [f"{WAITING}{layer.name}" for layer in self.schedule.net.layers]
        names = self.ranks.bcast([*spent["compute"], *waits])
        mine = np.array([spent["compute"][name] + spent["exposed"][name] for name in names]) / max(1, self.steps)
        theirs = mine.copy()
        self.ranks.broadcast(theirs, rank)
        means = self.ranks.total(mine) / self.workers
        return {name: {"mean": mean, "slowest": its} for name, mean, its in zip(names, means, theirs, strict=True)
                if mean}


def slowest(steps, samples, seconds):
    """(rank that computes longest, how many times as long as the median of the others) of (ranks,) each; None of one.

    By step and by sample, of which the smaller counts: parts of a batch may differ by a sample, and of a step much
    takes as long for one sample as for two.
    """
    if len(steps) < 2:
        return None
    per = [seconds / np.maximum(1, counted) for counted in (steps, samples)]
    least = np.min([each / max(np.median(each), 1e-9) for each in per], axis=0)
    rank = int(least.argmax())
    return rank, float(min(each[rank] / max(np.median(np.delete(each, rank)), 1e-9) for each in per))


class Stragglers:
    """Says once of a rank that it is steadily slower than the others.

    hosts   of all ranks      say   what says a line
    """

    FACTOR = 1.2
    STEADY = 3  # readings in a row

    def __init__(self, hosts, say):
        self.hosts, self.say, self.suspect, self.seen, self.told = hosts, say, None, [], set()

    def __call__(self, reading):
        """Look at it."""
        found = slowest(reading.of("steps"), reading.of("samples"), reading.of("compute"))
        rank, times = found if found and found[1] >= self.FACTOR else (None, 1.0)
        seen = times, len(reading.durations)
        self.seen = [*self.seen, seen] if rank == self.suspect else [seen]
        self.suspect = rank
        if rank is not None and len(self.seen) >= self.STEADY and rank not in self.told:
            self.told.add(rank)
            times, steps = zip(*self.seen, strict=True)
            self.say(f"rank {rank} ({self.hosts[rank]}) computes {np.median(times):.2f} times as long as the median of"
                     f" the others, for the last {sum(steps)} steps")
