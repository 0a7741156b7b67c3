"""Schedules in turn on the ranks of this job, on one net and one batch: the times of their steps."""

import resource
import statistics
import time
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import psutil

from kernels import gpu
from mpilayer.schedules import make
from mpilayer.train import NET
from mpilayer.training import options as main_job
from mpilayer.training import startup
from mpilayer.training.batch import Batch
from mpilayer.training.compute import compute_of
from mpilayer.training.optim import OPTIMIZERS, MomentumSGD
from mpilayer.training.slowed import slowed

FILLING = 3  # steps for each step of delay, until waiting shows what the link cannot carry
RATE = 1e-6  # learning rate: so low that all schedules compute on nearly the same weights
ALONE = {"compute": "computing alone", "communication": "communication alone"}
SENT = "wire", "wire_options", "reduction"  # of Settings: what travels
COUNTERS = "bytes_on_wire", "system_seconds", "switches", "interrupt_seconds"
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


def counters():
    """So far: bytes sent as above, seconds of this process in the system, involuntary switches of it, seconds of
    one of this machine's cores in soft interrupts, where TCP works. Only differences mean something.
    """
    used, times = resource.getrusage(resource.RUSAGE_SELF), psutil.cpu_times()
    interrupts = getattr(times, "softirq", 0.0) / psutil.cpu_count()
    return np.array([sent(), used.ru_stime, used.ru_nivcsw, interrupts])


def options_of(text, words, ranks):
    """The main job's options of a candidate, NAME:DELAY+OPTION=VALUE, on so many ranks; `words` are those of all
    candidates. Raises UserError.
    """
    return main_job.read_options(["--schedule", text, "--batch-per-rank", "1"], NET, ranks, words)


class Workload:
    """A net, a random batch of `size` samples a rank, and what every schedule is made of: computing and communication.

    slow, jitter   of mpilayer.training.slowed.slowed      settings   Settings, once prepare() has measured them
    """

    def __init__(self, ranks, net, size, *, slow=None, jitter=0.0):
        self.ranks, self.net, self.settings = ranks, net, None
        self.on_gpu, self._stragglers = gpu.is_array(net.weights), (slow, jitter)
        self.resize(size)
        self.trace, self.optimizer = compute_of(net).trace(), MomentumSGD(net, RATE)

    def prepare(self, settings, say):
        """Compile what is needed, and measure the settings."""
        self.settings = startup.prepare(self.ranks, settings, self.net, self.batch.size, say)

    def slowed(self, rest):
        """The net as this rank is to have it; rest(seconds) is how the time passes."""
        return slowed(self.net, self.ranks.rank, *self._stragglers, rest)

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
        net = self.slowed(time.sleep)
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
        self.net.write_gradients_to(0)  # whichever a delayed schedule has left
        queue = make.queue_class(self.net)(self.ranks, self.net, settings=self.settings, trace=self.trace)
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


class Candidate:
    """A schedule on a workload, by options_of(); it rests between its turns."""

    def __init__(self, workload, options):
        ranks, keywords = workload.ranks, make.CHOICE.keywords(options)
        self.workload, self.trace = workload, compute_of(workload.net).trace()
        self.settings = main_job.settings(options).measured_as(workload.settings)
        optimizer = OPTIMIZERS[options.optimizer](workload.net, RATE, **main_job.OPTIMIZER.keywords(options))
        net = workload.slowed(lambda seconds: self.channel.rest(seconds))
        self.schedule = make.make_schedule(options.schedule, net, ranks, optimizer, settings=self.settings,
                                           trace=self.trace, **keywords)
        self.channel = self.schedule.channel
        self.channel.pause()
        self.serves = ranks.rank >= ranks.size - make.CHOICE.parts[options.schedule].servers(**keywords)
        self.period = self.schedule.period
        self.filling = self.period + FILLING * self.schedule.delay
        self.steps, self.counted = 0, []

    def turn(self, count):
        """So many readings, after the steps that fill the pipeline: of a step, or the mean of a period of steps."""
        filling = self.filling
        filling += 0 if self.steps else self.schedule.measured
        self.workload.net.write_gradients_to(0)
        self.schedule.choose_factors(self.workload.net)
        self.channel.resume()
        before = counters()
        self._steps(filling)
        readings = [self._steps(steps) for steps in self.workload.portions(count, self.period)]
        self.schedule.drain()
        self.counted.append((counters() - before) / (filling + count * self.period))
        self.channel.pause()
        return readings

    def _steps(self, number):
        """The mean of so many, of which a GPU is waited for before and after."""
        if self.serves:
            return SERVER
        self._finish()
        before, start = dict(self.trace.seconds), self.trace.now()
        for _ in range(number):
            self.trace.next_step()
            self.schedule.step(self.steps, self.workload.batch)
            self.steps += 1
        self._finish()
        spent = {kind: seconds - before[kind] for kind, seconds in self.trace.seconds.items()}
        return Reading(*(seconds / max(1, number) for seconds in
                         (self.trace.now() - start, spent["exposed"], spent["mpi"])))

    def _finish(self):
        self.channel.wait(self.channel.reached(), "the GPU", "waiting")
        self.trace.settle()

    @property
    def prediction(self):
        """Of the schedule itself, or None."""
        return self.schedule.prediction

    def bound(self, compute, communication):
        """Seconds that a step takes at least, or None where its messages are others than those measured alone."""
        others = any(getattr(self.settings, name) != getattr(self.workload.settings, name) for name in SENT)
        if others or not self.schedule.kept_sums:
            return None
        return max(compute, communication) if self.schedule.overlaps else compute + communication

    def staleness(self):
        """Mean over the counts of all ranks; None where there are none."""
        mine = self.schedule.staleness or {}
        sums = np.array([sum(late * count for late, count in mine.items()), sum(mine.values())], float)
        late, count = self.workload.ranks.total(sums)
        return late / count if count else None


def take_turns(workload, candidates, rounds, steps, say):
    """{name: readings} of the two alone and of {name: Candidate}, which end with this."""
    turns = {**{name: getattr(workload, name) for name in ALONE}, **{name: c.turn for name, c in candidates.items()}}
    readings, ranks = defaultdict(list), workload.ranks
    for number in range(rounds):
        for name, turn in turns.items():
            ranks.meet()
            ranks.where = f"round {number + 1} of {rounds} | {name}"
            readings[name] += turn(steps)
            say(f"round {number + 1}/{rounds}  {ALONE.get(name, name):22}"
                f" {1e3 * statistics.median(r.seconds for r in readings[name][-steps:]):9.1f} ms a step")
    for candidate in candidates.values():
        candidate.channel.close()
    return readings


def rows(workload, candidates, readings):
    """A dictionary for each candidate, on every rank; METRICS.md has the formulas."""
    means, paces = {}, {}
    for name, found in readings.items():
        counted = candidates[name].counted if name in candidates else [[0.0]]
        mine = [*(statistics.median(column) for column in zip(*found, strict=True)), *np.mean(counted, 0)]
        everyone = np.array(workload.ranks.gather(mine))
        means[name] = [np.nanmax(everyone[:, 0]), *np.nanmean(everyone[:, 1:], 0)]
        paces[name] = np.nansum(len(workload.batch.x) / everyone[:, 0])
    compute, communication = (means.pop(name)[0] for name in ALONE)
    first = paces[next(iter(means))]
    for name, (seconds, exposed, mpi, *counted) in means.items():
        row = {"schedule": name, "iteration_seconds": seconds, "images_per_second": paces[name],
               "alone_images_per_second": paces["compute"],
               "compute_seconds": compute, "communication_seconds": communication, "exposed_seconds": exposed,
               "mpi_seconds": mpi, "speedup": paces[name] / first,
               "efficiency": paces[name] / paces["compute"], **dict(zip(COUNTERS, counted, strict=True))}
        if bound := candidates[name].bound(compute, communication):
            row |= {"bound_seconds": bound, "bound_share": bound / seconds}
        if (late := candidates[name].staleness()) is not None:
            row["staleness"] = late
        yield row
