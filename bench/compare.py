"""Schedules in turn on the ranks of this job, on one net and one batch: the times of their steps."""

import re
import statistics
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import psutil

import nets
from bench.entrants import entrant
from kernels import gpu
from mpilayer.base.tracing import Trace, Watched
from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.gpu.trace import GpuTrace
from mpilayer.schedules import SCHEDULES, schedule
from mpilayer.train import Batch
from mpilayer.training.optim import MomentumSGD
from mpilayer.training.straggler import slowed

SGD = {"momentum": 0.9, "weight_decay": 5e-4}
FILLING = 3  # steps for each step of delay, until waiting shows what the link cannot carry
RATE = 1e-6  # so slow that all schedules compute on nearly the same weights
SUMS = {"oneshot", "layerwise", "planned", "split", "delayed"}  # that every step sum all gradients as they are
ALONE = {"compute": "computing alone", "communication": "communication alone"}
START, CORRECTIONS = 16, 3  # to find the balanced batch: what is tried first, and how often that is corrected


class Reading(NamedTuple):
    """Of a step on this rank: seconds in all, exposed, and of MPI's own work beside computing."""

    seconds: float
    exposed: float = 0.0
    mpi: float = 0.0


SERVER = Reading(float("nan"), float("nan"), float("nan"))  # of a rank that makes no steps


def sent():
    """Bytes that have left this host, but for those to itself."""
    return sum(count.bytes_sent for name, count in psutil.net_io_counters(pernic=True).items() if name != "lo")


class Entrant:
    """A schedule and its queue; they rest between their turns."""

    def __init__(self, track, text):
        self.track, self.trace, ranks = track, track.watch(), track.ranks
        options = entrant(text, ranks.size, *track.words)
        settings = track.settings._replace(wire=options.wire, feedback=options.error_feedback,
                                           top_share=options.top_share, matrix_rank=options.matrix_rank)
        self.traffic = SCHEDULES[options.schedule].traffic(ranks, self.trace, settings)
        optimizer = MomentumSGD(track.net.layers, lambda step: RATE, self.trace, **SGD,
                                correction=options.momentum_correction, compensation=options.delay_compensation)
        net = slowed(track.net, self.traffic, track.options)
        self.schedule = schedule(Watched(net, self.trace), self.traffic, optimizer, options)
        self.traffic.pause()
        self.serves = ranks.rank >= ranks.size - self.schedule.servers(options)
        self.period = options.period or 1
        self.filling = self.period + FILLING * getattr(self.schedule, "delay", 0)
        self.steps, self.bytes = 0, []

    def turn(self, count):
        """So many readings, after the steps that fill the pipeline: of a step, or the mean of a period of steps."""
        filling = self.filling
        filling += 0 if self.steps else getattr(self.schedule, "measured", 0)
        self.track.net.write_gradients_to(0)
        self.traffic.resume()
        left = sent()
        self._steps(filling)
        readings = [self._steps(steps) for steps in self.track.portions(count, self.period)]
        self.schedule.drain()
        self.bytes.append((sent() - left) / (filling + count * self.period))
        self.traffic.pause()
        return readings

    def _steps(self, number):
        """The mean of so many, of which a GPU is waited for before and after."""
        if self.serves:
            return SERVER
        self._finish()
        before, start = dict(self.trace.seconds), self.trace.now()
        for _ in range(number):
            self.trace.next_step()
            self.schedule.step(self.steps, self.track.batch)
            self.steps += 1
        self._finish()
        spent = {kind: seconds - before[kind] for kind, seconds in self.trace.seconds.items()}
        return Reading(*(seconds / max(1, number) for seconds in
                         (self.trace.now() - start, spent["exposed"], spent["mpi"])))

    def _finish(self):
        self.traffic.wait(self.traffic.reached(), "the GPU", "waiting")
        self.trace.settle()


class Track:
    """A net, a random batch, and who takes turns on it."""

    def __init__(self, ranks, name, size, options):
        self.ranks, self.settings, self.options = ranks, None, options
        self.net = nets.build(name, device=options.device, precision=options.precision)
        self.on_gpu = options.device == "gpu"
        self.words = ["--wire", options.wire, *(["--error-feedback"] if options.error_feedback else []),
                      "--device", options.device, "--precision", options.precision]
        self.resize(size)
        self.trace = self.watch()
        self.optimizer = MomentumSGD(self.net.layers, lambda step: RATE, self.trace, **SGD)

    def watch(self):
        """A new trace, of where the net computes."""
        return GpuTrace() if self.on_gpu else Trace()

    def portions(self, count, period=1):
        """Of how many steps each of `count` readings is, or the only one on a GPU: nobody waits for that in between."""
        return [count * period] if self.on_gpu else [period] * count

    def finish(self):
        """Wait for a GPU."""
        if self.on_gpu:
            gpu.cupy().cuda.get_current_stream().synchronize()

    def resize(self, size):
        """Another batch."""
        x, y = self.net.example(size, np.random.default_rng(self.ranks.rank))
        self.batch = Batch(x, y, size * self.ranks.size)

    def compute(self, count):
        """Readings of steps without communication."""
        return [self._alone(steps) for steps in (1, *self.portions(count))][1:]

    def _alone(self, steps):
        net = slowed(self.net, SimpleNamespace(ranks=self.ranks, rest=time.sleep), self.options)
        self.finish()
        start = self.trace.now()
        for _ in range(steps):
            for _ in (*net.forward(self.batch), *net.backward()):
                pass
            for layer in self.net.layers:
                self.optimizer.update(layer, layer.g, 0)
        self.finish()
        return Reading((self.trace.now() - start) / steps)

    def communication(self, count):
        """Readings of all messages of a step, with nothing computed."""
        queue = GradientQueue(self.ranks, self.trace, self.settings)
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
        self.finish()
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


def _mean(ranks, staleness):
    """Of all ranks' counts; None where there are none."""
    mine = staleness or {}
    late, count = ranks.total(np.array([sum(key * n for key, n in mine.items()), sum(mine.values())], float))
    return late / count if count else None


def race(ranks, track, names, rounds, steps, say):
    """In turn the two alone and every schedule.

    {name: (readings, bytes a step)}, {name: its prediction}, {name: its mean staleness}.
    """
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
    for each in entrants.values():
        each.traffic.close()
    late = {name: _mean(ranks, e.schedule.staleness) for name, e in entrants.items()}
    predicted = {name: e.schedule.prediction for name, e in entrants.items() if hasattr(e.schedule, "prediction")}
    return found, predicted, late


def rows(ranks, track, readings, late):
    """A dictionary for each schedule, on every rank; METRICS.md has the formulas. `late`: its mean staleness."""
    means, paces = {}, {}
    for name, (found, left) in readings.items():
        mine = [statistics.median(column) for column in zip(*found, strict=True)] + [sum(left) / max(1, len(left))]
        everyone = np.array(ranks.gather(mine))
        means[name] = [np.nanmax(everyone[:, 0]), *np.nanmean(everyone[:, 1:], 0)]
        paces[name] = np.nansum(len(track.batch.x) / everyone[:, 0])
    compute, communication = means.pop("compute")[0], means.pop("communication")[0]
    first = paces[next(iter(means))]
    for name, (seconds, exposed, mpi, left) in means.items():
        row = {"schedule": name, "iteration_seconds": seconds, "images_per_second": paces[name],
               "alone_images_per_second": paces["compute"],
               "compute_seconds": compute, "communication_seconds": communication, "exposed_seconds": exposed,
               "mpi_seconds": mpi, "speedup": paces[name] / first,
               "efficiency": paces[name] / paces["compute"], "bytes_on_wire": left}
        if re.split("[:+]", name)[0] in SUMS and "wire=" not in name:
            bound = compute + communication if name == "oneshot" else max(compute, communication)
            row |= {"bound_seconds": bound, "bound_share": bound / seconds}
        if late.get(name) is not None:
            row["staleness"] = late[name]
        yield row
