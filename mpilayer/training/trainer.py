"""A run of training: which samples each rank computes, what is done with them, and what is recorded."""

import collections
import math

import numpy as np

from kernels.gpu import fetch
from mpilayer.base.errors import UserError
from mpilayer.base.state import State
from mpilayer.data import batches, prefetch, share
from mpilayer.training.batch import Batch
from mpilayer.training.meter import Meter
from mpilayer.training.outcome import Outcome
from mpilayer.training.parts import NextParts, OwnParts
from mpilayer.training.requests import NOTHING, SNAPSHOT, STOP, Never

STATISTICS = "statistics"  # of batch normalization, as a checkpoint has them
PROGRESS = "epochs", "loss", "spent", "made", "seconds", "resumed"  # what it has of the run's progress, besides
EXPECTED = 4  # steps before a batch is read, when it is known that it will be
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
    compute       of mpilayer.training.compute                display display.Display
    replicas      replicas.ReplicaCheck
    requests      requests.Requests, of checkpoints         checkpoints   Checkpoints; None: there are none
    snapshots     Snapshots; None: there are none
    notes         {name: value} that they hold beside the run's own
    listeners     meter.Meter's                               block         of mpilayer.data.batches

    epochs        the records of those that have ended      stopped       whether a signal has ended the run early
    """

    def __init__(self, ranks, schedule, net, data, compute, display, replicas, *, batch, steps, per_epoch, seed=0,
                 workers=None, statistics="local", name="schedule", requests=None, checkpoints=None,
                 snapshots=None, notes=(), listeners=(), block=None):
        self.ranks, self.schedule, self.net, self.data, self.display = ranks, schedule, net, data, display
        self.replicas = replicas
        self.batch, self.seed, self.name, self.steps, self.per_epoch = batch, seed, name, steps, per_epoch
        self.compute, self.channel, self.trace = compute, schedule.channel, schedule.channel.trace
        self.workers = workers or ranks.size
        self.channel.pause()
        self.requests, self.checkpoints, self.notes = requests or Never(), checkpoints, dict(notes)
        self.block = block
        self.snapshots, self.meter = snapshots, Meter(ranks, schedule, self.workers, listeners)
        self.parts = (NextParts if schedule.asynchronous else OwnParts)(ranks, schedule, self.workers, self.requests)
        self.total = self.statistics if statistics == "all" else None
        self.seconds = dict.fromkeys((*self.trace.kinds, "total"), 0.0)
        self.losses = collections.deque()  # of steps that the GPU may not have come to
        self.made = 0  # steps since the statistics of batch normalization were averaged
        self.epochs, self.loss, self.spent, self.stopped, self.before = [], 0.0, 0.0, False, {}
        self.resumed = []  # after how many steps

    @property
    def planned(self):
        """Seconds a step that the schedule has predicted, or None."""
        return self.schedule.prediction and self.schedule.prediction.seconds

    @property
    def step_now(self):
        """Steps that all ranks have made, of the whole run."""
        per_step = self.workers if self.schedule.asynchronous else 1
        return len(self.epochs) * self.per_epoch + self.parts.done // per_step

    def run(self):
        """Train; yield the record of each epoch. Ends early, and is `stopped`, if a signal asks for that."""
        count = math.ceil(self.steps / self.per_epoch)
        self.save(SNAPSHOT if self.snapshots else NOTHING)
        while len(self.epochs) < count and self.epoch(len(self.epochs)):
            yield self.epochs[-1]
            wanted = max(self.parts.wanted, self.requests.between_epochs(last=len(self.epochs) == count))
            self.save(wanted if len(self.epochs) < count else min(wanted, STOP - 1))
            if self.stopped:
                return

    def epoch(self, number):
        """All samples once, in an order that depends on seed and epoch alone; then the accuracy on the test part.
        Whether it came to its end.
        """
        first = number * self.per_epoch
        plan = batches(len(self.data.train), self.batch, seed=self.seed, epoch=number,
                       block=self.block)[:self.steps - first]
        self.trace.restart()
        for kind, seconds in self.before.items():
            self.trace.seconds[kind] += seconds
        self.before = {}
        self.channel.resume()
        while not self.stretch(number, first, plan):
            self.save(self.parts.wanted)
            if self.stopped:
                self.schedule.drain()
                self.replicas.after_drain(self.step_now)
                return False
        self.channel.pause()
        last = first + len(plan) - 1
        self.check_updates(last)
        self.replicas.after_drain(last)
        self.epochs.append(self.record(number, len(plan)))
        self.parts.done, self.loss, self.spent = 0, 0.0, 0.0
        return True

    def stretch(self, number, first, plan):
        """Steps of an epoch until it ends, or until a checkpoint is wanted; whether it has ended."""
        expect = getattr(self.data.train, "expect", lambda indices: None)

        def read(part):
            step, place = part
            mine = share(self.batch, place, self.workers)
            expect(plan[step + EXPECTED:step + EXPECTED + 1, mine].ravel())
            return first + step, mine.start, *self.data.train.read(plan[step][mine], epoch=number)

        start, ahead = self.trace.now(), self.ranks.neighbours < self.ranks.cores
        self.meter.begin()
        samples = prefetch(read, self.parts.stretch(len(plan), first), ahead=ahead, rest=self.channel.rest)
        for t, *sample in self.input(samples, self.step_now):
            loss = self.step(t, *sample)
            self.loss += loss
            self.meter.after_step(t + 1, len(sample[-1]), loss)
            if self.checkpoints:
                self.checkpoints.poll()
            if not self.parts.goes_on(t, first):
                break
        samples.close()
        self.loss += self.look(0)
        ended = self.parts.end_stretch(len(plan))
        self.finish()
        self.spent += self.trace.now() - start
        return ended

    def state(self):
        """The State of the schedule and the net."""
        return self.schedule.state() | State(own={STATISTICS: self.net.state})

    def save(self, wanted):
        """Make a snapshot if that is wanted; of a checkpoint begin to write it, or if it is the last thing, end it."""
        if wanted == NOTHING:
            return
        self.ranks.where = f"{self.name} | checkpoint after step {self.step_now - 1}"
        run = {name: getattr(self, name) for name in PROGRESS}
        before = self.trace.seconds if self.parts.done else {}
        run |= {"done": self.parts.done, "step": self.step_now, "before": before, **self.notes}
        if self.snapshots:
            self.snapshots.save(self.state(), run=run)
        if wanted == SNAPSHOT:
            return
        self.checkpoints.save(self.state(), run=run)
        self.requests.is_saved()
        self.stopped = wanted == STOP
        if self.stopped:
            self.checkpoints.finish()
        elif self.ranks.rank >= self.workers:
            self.checkpoints.finish_own()  # it will only serve

    def restore(self, loaded):
        """Go on from a Loaded checkpoint; all ranks call this together. Raises AgreedError."""
        values = loaded.of_this_rank()
        run, self.parts.done = values["run"], values["run"]["done"]
        for name in (*PROGRESS, "before"):
            setattr(self, name, run[name])
        self.resumed = [*run["resumed"], run["step"]]
        self.loss = sum(each["run"]["loss"] for each in loaded.values.values())
        self.schedule.restore(values["state"])
        self.channel.pause()
        loaded.put(self.state(), averaged=(STATISTICS,))
        self.schedule.restored()

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

    def record(self, number, steps):
        """Means over the ranks of an epoch's times, its loss, and the accuracy after it."""
        done = number * self.per_epoch + steps
        self.meter.after_epoch(done, self.spent)
        times = np.array([*self.trace.seconds.values(), self.spent])
        sums = self.ranks.total(np.array([self.loss, *times / self.ranks.size]))
        for kind, value in zip(self.seconds, sums[1:], strict=True):
            self.seconds[kind] += value
        means = dict(zip(("loss", *self.seconds), sums, strict=True))
        test_loss, test_accuracy = self.evaluate()
        self.check_loss(test_loss, done - 1)
        entry = {"epoch": number + 1, "step": done, "train_loss": means["loss"] / steps, "test_loss": test_loss,
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
        counts = np.zeros(1 + int(self.ranks.most(max(mine, default=-1))))
        counts[list(mine)] = list(mine.values())
        return {late: int(count) for late, count in enumerate(self.ranks.total(counts)) if count}

    def close(self):
        """Give back what MPI made for this."""
        self.parts.close()
        self.requests.close()
        self.replicas.close()
        self.meter.close()
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
        net = self.net
        if net.state.size:
            net.state[:] = net.put(self.mean_state())
        self.ranks.recorder.doing("test samples")
        found = Outcome.of(net, self.data.test, self.ranks, self.batch // self.ranks.size, self.compute.put)
        return found.loss, found.accuracy
