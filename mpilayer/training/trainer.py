"""A run of training: which samples each rank computes, what is done with them, and what is recorded."""

import collections
import math

import numpy as np

from kernels.gpu import fetch
from mpilayer.base.errors import UserError
from mpilayer.data import batches, prefetch, share
from mpilayer.mpi.shared_counter import SharedCounter
from mpilayer.training.batch import Batch

REMEDY = "try: a smaller --lr, a longer --warmup, or check the data"


def steps_in(samples, batch, epochs=None, steps=None):
    """(steps of an epoch, steps in all) for so many samples, epochs, and steps at most; one of these may be None."""
    per_epoch = len(batches(samples, batch, seed=0, epoch=0))
    epochs = epochs or math.ceil(steps / per_epoch)
    return per_epoch, min(steps or math.inf, epochs * per_epoch)


class Trainer:
    """One run: the schedule, what it works on, and the record of its epochs.

    schedule      of mpilayer.make_schedule, on `net`         name    of the schedule, for messages
    batch         effective batch                             seed    of the order of samples, and of dropout
    statistics    batch normalization over the samples of each rank, "local", or of "all"
    workers       ranks that compute, the first ones; None: all
    compute       of mpilayer.training.compute                display report.Display
    replicas      replicas.ReplicaCheck
    """

    def __init__(self, ranks, schedule, net, data, compute, display, replicas, *, batch, steps, per_epoch, seed=0,
                 workers=None, statistics="local", name="schedule"):
        self.ranks, self.schedule, self.net, self.data, self.display = ranks, schedule, net, data, display
        self.replicas = replicas
        self.batch, self.seed, self.name, self.steps, self.per_epoch = batch, seed, name, steps, per_epoch
        self.compute, self.channel, self.trace = compute, schedule.channel, schedule.channel.trace
        self.workers = workers or ranks.size
        self.channel.pause()
        self.parts_drawn = SharedCounter(ranks, self.channel.engine) if schedule.asynchronous else None
        self.total = self.statistics if statistics == "all" else None
        self.seconds = dict.fromkeys((*self.trace.kinds, "total"), 0.0)
        self.losses = collections.deque()  # of steps that the GPU may not have come to
        self.made = 0  # steps since the statistics of batch normalization were averaged

    @property
    def planned(self):
        """Seconds a step that the schedule has predicted, or None."""
        return self.schedule.prediction and self.schedule.prediction.seconds

    def run(self):
        """Train; yield the record of each epoch."""
        for number in range(math.ceil(self.steps / self.per_epoch)):
            yield self.epoch(number)

    def epoch(self, number):
        """All samples once, in an order that depends on seed and epoch alone; then the accuracy on the test part."""
        first = number * self.per_epoch
        plan = batches(len(self.data.train), self.batch, seed=self.seed, epoch=number)
        plan = plan[:self.steps - first]

        def read(part):
            step, place = part
            mine = share(self.batch, place, self.workers)
            return first + step, mine.start, *self.data.train.read(plan[step][mine], epoch=number)

        samples = prefetch(read, self.parts(len(plan)), ahead=self.ranks.neighbours < self.ranks.cores)
        self.trace.restart()
        self.channel.resume()
        start = self.trace.now()
        loss = sum(self.step(*sample) for sample in self.input(samples, first)) + self.look(0)
        self.schedule.drain()
        self.finish()
        seconds = self.trace.now() - start
        self.channel.pause()
        self.check_updates(first + len(plan) - 1)
        self.replicas.after_drain(first + len(plan) - 1)
        return self.record(number, loss, len(plan), seconds)

    def parts(self, steps):
        """(step, place) of each part of an effective batch that this rank computes: its own, or whichever is next."""
        if not self.parts_drawn:
            yield from ((step, self.ranks.rank) for step in range(steps) if self.ranks.rank < self.workers)
            return
        self.parts_drawn.restart()
        while self.ranks.rank < self.workers and (part := self.parts_drawn.next()) < steps * self.workers:
            yield divmod(part, self.workers)

    def input(self, samples, step):
        """The samples, each the beginning of a step, from the given one on."""
        while True:
            self.ranks.where = f"{self.name} | step {step}"
            self.ranks.recorder.doing("reading the batch")
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
        self.ranks.where = f"{self.name} | step {t}"
        x, y = self.compute.put(x, y)
        self.schedule.step(t, Batch(x, y, self.batch, first, self.seed * 2**32 + t, total=self.total))
        self.losses.append((t, len(x), self.compute.scalar(self.net.loss)))
        self.made += 1
        self.replicas.after_step(t)
        return self.look(self.compute.ahead)

    def look(self, left):
        """The sum of the losses of all steps but so many; as they come, they are shown."""
        total = 0.0
        while len(self.losses) > left:
            t, samples, coming = self.losses.popleft()
            loss = self.channel.read(coming, "the loss")
            self.check_loss(loss, t)
            self.display.step(t + 1, loss * self.batch / samples)
            total += loss
        return total

    def check_loss(self, loss, step):
        """Raise UserError if the loss is not finite, in this step or after its update."""
        if math.isfinite(loss):
            return
        found = self.net.first_not_finite()
        layer, what = (found[0].name, found[1]) if found else ("loss", "value")
        self.ranks.where = f"{self.name} | step {step}"
        raise UserError(f"{layer} | expected finite numbers, its {what} and so the loss ({loss}) are not | {REMEDY}")

    def check_updates(self, step):
        """Raise UserError if the updates of all steps, this one the last, have left weights that are not finite."""
        for layer in self.net.layers:
            if not np.isfinite(fetch(layer.w)).all():
                self.ranks.where = f"{self.name} | step {step}"
                raise UserError(f"{layer.name} | expected finite weights after the update, some are not | {REMEDY}")

    def finish(self):
        """Wait until all is done that a GPU was told to do."""
        self.channel.wait(self.channel.reached(), "the GPU", "waiting")
        self.trace.settle()

    def record(self, number, loss, steps, seconds):
        """Means over the ranks of an epoch's times, its loss, and the accuracy after it."""
        times = np.array([*self.trace.seconds.values(), seconds])
        sums = self.ranks.total(np.array([loss, *times / self.ranks.size]))
        for kind, value in zip(self.seconds, sums[1:], strict=True):
            self.seconds[kind] += value
        means = dict(zip(("loss", *self.seconds), sums, strict=True))
        test_loss, test_accuracy = self.evaluate()
        self.check_loss(test_loss, number * self.per_epoch + steps - 1)
        entry = {"epoch": number + 1, "train_loss": means["loss"] / steps, "test_loss": test_loss,
                 "test_accuracy": test_accuracy, "seconds": means["total"],
                 "images_per_second": steps * self.batch / means["total"], "exposed_seconds": means["exposed"]}
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
        if self.parts_drawn:
            self.parts_drawn.close()
        self.replicas.close()
        self.channel.close()

    def statistics(self, values):
        """Sum over the ranks of what batch normalization gathers, in the midst of a step."""
        with self.trace.interrupted("wait statistics"):
            return self.channel.total(values)

    def mean_state(self):
        """Mean over the ranks of the running statistics of batch normalization, each rank's weighted by the steps that
        it has made since the last time: those of a rank that only serves have seen nothing.
        """
        steps = float(self.ranks.total(np.array([float(self.made)]))[0])
        own, self.made = self.made, 0
        state = fetch(self.net.state)
        return self.ranks.total(state / (steps / own) if own else np.zeros_like(state))

    def evaluate(self):
        """(mean loss, share that is classified right) of the test part; each rank looks at a part of it."""
        self.ranks.where = "evaluation"
        net, total = self.net, len(self.data.test)
        if net.state.size:
            net.state[:] = net.put(self.mean_state())
        mine, loss, right, answers = share(total, self.ranks.rank, self.ranks.size), 0.0, 0, 0
        chunk = max(1, self.batch // self.ranks.size)
        for start in range(mine.start, mine.stop, chunk):
            self.ranks.recorder.doing(f"test sample {start}")
            x, y = self.compute.put(*self.data.test.read(np.arange(start, min(start + chunk, mine.stop))))
            for _ in net.forward(Batch(x, y, total, training=False)):
                pass
            loss, right = loss + net.losses[-1].loss, right + (net.logits.argmax(-1) == y).sum()
            answers += y.size
        self.ranks.recorder.doing("its sums")
        loss, right, answers = self.ranks.total(np.array([float(loss), float(right), answers]))
        return loss, right / answers
