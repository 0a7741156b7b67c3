"""Schedules in turn on the ranks of this job, on one net and one batch: the times of their steps."""

import statistics
from collections import defaultdict
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import psutil

import nets
from mpilayer.errors import UserError
from mpilayer.optim import MomentumSGD
from mpilayer.pending import Queue
from mpilayer.schedules import SCHEDULES, schedule
from mpilayer.schedules.layerwise import APPLY
from mpilayer.tracing import Trace, Watched
from mpilayer.train import Batch

SGD = {"momentum": 0.9, "weight_decay": 5e-4}
FILLING = 3  # steps for each step of delay, until waiting shows what the link cannot carry
RATE = 1e-6  # so slow that all schedules compute on nearly the same weights
ALONE = {"compute": "computing alone", "communication": "communication alone"}
START, CORRECTIONS = 16, 3  # to find the balanced batch: what is tried first, and how often that is corrected


class Reading(NamedTuple):
    """Of a step on this rank: seconds in all, exposed, and of MPI's own work beside computing."""

    seconds: float
    exposed: float = 0.0
    mpi: float = 0.0


def sent():
    """Bytes that have left this host, but for those to itself."""
    return sum(count.bytes_sent for name, count in psutil.net_io_counters(pernic=True).items() if name != "lo")


def entrant(text):
    """A schedule as its options: oneshot, layerwise[:apply], planned, delayed[:k]. Raises UserError."""
    name, _, more = text.partition(":")
    known = (name in SCHEDULES and not more) or (name == "layerwise" and more in APPLY) or (
        name == "delayed" and (more.isdecimal() or more == "auto"))
    if not known:
        raise UserError(f"no schedule {text!r} | expected {', '.join(SCHEDULES)}, layerwise:{'|'.join(APPLY)},"
                        " delayed:K or delayed:auto")
    delay = (more if more == "auto" else int(more or 1)) if name == "delayed" else 0
    apply = more if name == "layerwise" and more else "lazy"
    return SimpleNamespace(schedule=name, delay=delay, delay_warmup=0, apply=apply)


class Entrant:
    """A schedule and its queue; they rest between their turns."""

    def __init__(self, track, text):
        self.track, self.trace = track, Trace()
        self.queue = Queue(track.ranks, self.trace, track.settings)
        optimizer = MomentumSGD(track.net.layers, lambda step: RATE, self.trace, **SGD)
        self.schedule = schedule(Watched(track.net, self.trace), self.queue, optimizer, entrant(text))
        self.queue.pause()
        self.steps, self.bytes = 0, []

    def turn(self, count):
        """Readings of so many steps, after those that fill the pipeline."""
        filling = 1 + FILLING * getattr(self.schedule, "delay", 0)
        filling += 0 if self.steps else getattr(self.schedule, "measured", 0)
        self.track.net.write_gradients_to(0)
        self.queue.resume()
        left = sent()
        readings = [self._step() for _ in range(filling + count)][filling:]
        self.schedule.drain()
        self.bytes.append((sent() - left) / (filling + count))
        self.queue.pause()
        return readings

    def _step(self):
        before, start = dict(self.trace.seconds), self.trace.now()
        self.trace.next_step()
        self.schedule.step(self.steps, self.track.batch)
        self.steps += 1
        spent = {kind: seconds - before[kind] for kind, seconds in self.trace.seconds.items()}
        return Reading(self.trace.now() - start, spent["exposed"], spent["mpi"])


class Track:
    """A net, a random batch, and who takes turns on it."""

    def __init__(self, ranks, name, size):
        self.ranks, self.net, self.settings = ranks, nets.build(name), None
        self.resize(size)
        self.trace = Trace()
        self.optimizer = MomentumSGD(self.net.layers, lambda step: RATE, self.trace, **SGD)

    def resize(self, size):
        """Another batch."""
        x, y = self.net.example(size, np.random.default_rng(self.ranks.rank))
        self.batch = Batch(x, y, size * self.ranks.size)

    def compute(self, count):
        """Readings of steps without communication."""
        return [self._alone() for _ in range(count + 1)][1:]

    def _alone(self):
        start = self.trace.now()
        for _ in self.net.forward(self.batch):
            pass
        for _ in self.net.backward():
            pass
        for layer in self.net.layers:
            self.optimizer.update(layer, layer.g, 0)
        return Reading(self.trace.now() - start)

    def communication(self, count):
        """Readings of all messages of a step, with nothing computed."""
        queue = Queue(self.ranks, self.trace, self.settings)
        queue.open(self.net, slots=1)
        readings = [self._sum(queue, step) for step in range(count + 1)][1:]
        queue.close()
        return readings

    def _sum(self, queue, step):
        self.ranks.meet()
        start = self.trace.now()
        for layer in self.net.backward_layers:
            queue.post(step, layer)
        for layer in self.net.layers:
            for _ in queue.settle(layer, step):
                pass
        return Reading(self.trace.now() - start)

    def balance(self):
        """Take the batch a rank for which computing takes as long as communication; return it."""
        whole, size = self.slowest(self.communication(2)), START
        for _ in range(CORRECTIONS):  # time is not quite proportional to the batch
            self.resize(size)
            seconds = self.slowest(self.compute(2))
            size = max(1, round(size * whole / seconds))
        self.resize(size)
        return size

    def slowest(self, readings):
        """Median seconds, of the rank where it is largest."""
        return max(self.ranks.gather(statistics.median(reading.seconds for reading in readings)))


def race(ranks, track, names, rounds, steps, say):
    """{name: (readings, bytes a step)} of the two alone and of every schedule, in turn; {name: its prediction}."""
    entrants = {name: Entrant(track, name) for name in names}
    turns = {**{name: getattr(track, name) for name in ALONE}, **{name: e.turn for name, e in entrants.items()}}
    readings = defaultdict(list)
    for number in range(rounds):
        for name, turn in turns.items():
            ranks.meet()
            ranks.where = f"round {number + 1} of {rounds} | {name}"
            readings[name] += turn(steps)
            say(f"round {number + 1}/{rounds}  {ALONE.get(name, name):22}"
                f" {1e3 * statistics.median(r.seconds for r in readings[name][-steps:]):9.1f} ms a step")
    found = {name: (of, entrants[name].bytes if name in entrants else []) for name, of in readings.items()}
    return found, {name: e.schedule.prediction for name, e in entrants.items() if hasattr(e.schedule, "prediction")}


def rows(ranks, track, readings):
    """A dictionary for each schedule, on every rank; METRICS.md has the formulas."""
    means = {}
    for name, (found, left) in readings.items():
        mine = [statistics.median(column) for column in zip(*found, strict=True)] + [sum(left) / max(1, len(left))]
        everyone = np.array(ranks.gather(mine))
        means[name] = [everyone[:, 0].max(), *everyone[:, 1:].mean(0)]
    compute, communication = means.pop("compute")[0], means.pop("communication")[0]
    first = next(iter(means.values()))[0]
    for name, (seconds, exposed, mpi, left) in means.items():
        bound = compute + communication if name == "oneshot" else max(compute, communication)
        yield {"schedule": name, "iteration_seconds": seconds,
               "images_per_second": len(track.batch.x) * ranks.size / seconds,
               "compute_seconds": compute, "communication_seconds": communication, "exposed_seconds": exposed,
               "mpi_seconds": mpi, "bound_seconds": bound, "bound_share": bound / seconds, "speedup": first / seconds,
               "efficiency": compute / seconds, "bytes_on_wire": left}
