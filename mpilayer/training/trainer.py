"""A run of training: which samples each rank computes, what is done with them, and what is recorded."""

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kernels import gpu
from kernels.places import fetch
from mpilayer.base.errors import UserError
from mpilayer.base.tracing import Trace, Watched
from mpilayer.data import batches, prefetch, share
from mpilayer.gpu.batch_feed import Feed
from mpilayer.gpu.staging import Coming
from mpilayer.gpu.trace import GpuTrace
from mpilayer.mpi.shared_counter import Tickets
from mpilayer.schedules import SCHEDULES, schedule
from mpilayer.training.optim import learning_rate, optimizer
from mpilayer.training.straggler import slowed


@dataclass
class Batch:
    """This rank's samples x (n,H,W,C), y (n,), and what of the effective batch a net needs to know.

    size: samples in the effective batch, over all ranks   first: where this rank's begin in it   seed: of the step
    total: sums a float64 array over the ranks, for statistics of the whole batch; None for those of this rank's part
    """

    x: np.ndarray
    y: np.ndarray
    size: int
    first: int = 0
    seed: int = 0
    training: bool = True
    total: Callable | None = None


class Trainer:
    """One run: the schedule, what it works on, and the record of its epochs."""

    def __init__(self, ranks, options, settings, data, net, display):
        self.ranks, self.options, self.data, self.net, self.display = ranks, options, data, net, display
        self.per_epoch = len(batches(len(data.train), options.batch, seed=0, epoch=0))
        epochs = options.epochs or math.ceil(options.steps / self.per_epoch)
        self.steps = min(options.steps or math.inf, epochs * self.per_epoch)
        self.on_gpu = gpu.is_array(net.weights)
        self.trace = GpuTrace() if self.on_gpu else Trace()
        self.put = Feed().put if self.on_gpu else lambda *arrays: arrays
        self.traffic = SCHEDULES[options.schedule].traffic(ranks, self.trace, settings, display.say)
        for loss in net.losses:
            loss.smoothing = options.label_smoothing
        self.optimizer = optimizer(net.layers, learning_rate(options, self.steps), self.trace, self.traffic.norm,
                                   options)
        self.schedule = schedule(Watched(slowed(net, self.traffic, options), self.trace), self.traffic, self.optimizer,
                                 options)
        self.traffic.pause()
        self.workers = ranks.size - self.schedule.servers(options)
        self.tickets = Tickets(ranks, self.traffic.engine) if self.schedule.asynchronous else None
        self.total = self.statistics if options.batch_statistics == "all" else None
        self.seconds = dict.fromkeys((*self.trace.kinds, "total"), 0.0)
        self.losses = collections.deque()  # of steps that the GPU may not have come to

    @property
    def planned(self):
        """Seconds a step that the schedule has predicted, or None."""
        prediction = getattr(self.schedule, "prediction", None)
        return prediction and prediction.seconds

    def run(self):
        """Train; return the record of each epoch."""
        return [self.epoch(number) for number in range(math.ceil(self.steps / self.per_epoch))]

    def epoch(self, number):
        """All samples once, in an order that depends on seed and epoch alone; then the accuracy on the test part."""
        first = number * self.per_epoch
        plan = batches(len(self.data.train), self.options.batch, seed=self.options.seed, epoch=number)
        plan = plan[:self.steps - first]

        def read(part):
            step, place = part
            mine = share(self.options.batch, place, self.workers)
            return first + step, mine.start, *self.data.train.read(plan[step][mine], epoch=number)

        samples = prefetch(read, self.parts(len(plan)), ahead=self.ranks.neighbours < self.ranks.cores)
        self.trace.restart()
        self.traffic.resume()
        start = self.trace.now()
        loss = sum(self.step(*sample) for sample in self.input(samples, first)) + self.look(0)
        self.schedule.drain()
        self.finish()
        seconds = self.trace.now() - start
        self.traffic.pause()
        return self.record(number, loss, len(plan), seconds)

    def parts(self, steps):
        """(step, place) of each part of an effective batch that this rank computes: its own, or whichever is next."""
        if not self.tickets:
            yield from ((step, self.ranks.rank) for step in range(steps) if self.ranks.rank < self.workers)
            return
        self.tickets.restart()
        while self.ranks.rank < self.workers and (ticket := self.tickets.draw()) < steps * self.workers:
            yield divmod(ticket, self.workers)

    def input(self, samples, step):
        """The samples, each the beginning of a step, from the given one on."""
        while True:
            self.ranks.where = f"{self.options.schedule} | step {step}"
            begin = self.trace.moment()
            sample = next(samples, None)
            if sample is None:
                return
            self.trace.next_step()
            self.trace.add("input", "read batch", begin)
            step = sample[0] + 1
            yield sample

    def step(self, t, first, x, y):
        """Training step t on this rank's samples, which begin at `first` in the effective batch.

        Returns its part of the loss. On a GPU it is that of the step before: this core is ahead, and must not wait.
        """
        o, net = self.options, self.net
        self.ranks.where = f"{o.schedule} | step {t}"
        self.schedule.step(t, Batch(*self.put(x, y), o.batch, first, o.seed * 2**32 + t, total=self.total))
        self.losses.append((t, len(x), Coming(net.loss) if self.on_gpu else net.loss))
        return self.look(self.on_gpu)

    def look(self, left):
        """The sum of the losses of all steps but so many; as they come, they are shown."""
        total = 0.0
        while len(self.losses) > left:
            t, samples, coming = self.losses.popleft()
            loss = self.traffic.read(coming, "the loss")
            if not math.isfinite(loss):
                self.ranks.where = f"{self.options.schedule} | step {t}"
                raise UserError(self._diverged(loss))
            self.display.step(t + 1, loss * self.options.batch / samples)
            total += loss
        return total

    def _diverged(self, loss):
        found = self.net.first_not_finite()
        layer, what = (found[0].name, found[1]) if found else ("loss", "value")
        return (f"{layer} | expected finite numbers, its {what} and so the loss ({loss}) are not"
                " | try: a smaller --lr, a longer --warmup, or check the data")

    def finish(self):
        """Wait until all is done that a GPU was told to do."""
        self.traffic.wait(self.traffic.reached(), "the GPU", "waiting")
        self.trace.settle()

    def record(self, number, loss, steps, seconds):
        """Means over the ranks of an epoch's times, its loss, and the accuracy after it."""
        times = np.array([*self.trace.seconds.values(), seconds])
        sums = self.ranks.total(np.array([loss, *times / self.ranks.size]))
        for kind, value in zip(self.seconds, sums[1:], strict=True):
            self.seconds[kind] += value
        means = dict(zip(("loss", *self.seconds), sums, strict=True))
        test_loss, test_accuracy = self.evaluate()
        entry = {"epoch": number + 1, "train_loss": means["loss"] / steps, "test_loss": test_loss,
                 "test_accuracy": test_accuracy, "seconds": means["total"],
                 "images_per_second": steps * self.options.batch / means["total"], "exposed_seconds": means["exposed"]}
        self.display.epoch(entry)
        return entry

    def staleness(self):
        """{updates by others that an applied gradient had not seen: how many such}, of all ranks; None if none can be.
        """
        mine = self.schedule.staleness
        if mine is None:
            return None
        return dict(sorted(sum(self.ranks.gather(mine), collections.Counter()).items()))

    def close(self):
        """Give back what MPI made for this."""
        if self.tickets:
            self.tickets.close()
        self.traffic.close()

    def statistics(self, values):
        """Sum over the ranks of what batch normalization gathers, in the midst of a step."""
        with self.trace.interrupted("wait statistics"):
            return self.traffic.total(values)

    def evaluate(self):
        """(mean loss, share that is classified right) of the test part; each rank looks at a part of it."""
        self.ranks.where = "evaluation"
        net, total = self.net, len(self.data.test)
        if net.state.size:
            net.state[:] = net.put(self.ranks.total(fetch(net.state) / self.ranks.size))
        mine, loss, right, answers = share(total, self.ranks.rank, self.ranks.size), 0.0, 0, 0
        chunk = max(1, self.options.batch // self.ranks.size)
        for start in range(mine.start, mine.stop, chunk):
            x, y = self.put(*self.data.test.read(np.arange(start, min(start + chunk, mine.stop))))
            for _ in net.forward(Batch(x, y, total, training=False)):
                pass
            loss, right = loss + net.losses[-1].loss, right + (net.logits.argmax(-1) == y).sum()
            answers += y.size
        loss, right, answers = self.ranks.total(np.array([float(loss), float(right), answers]))
        return loss, right / answers
