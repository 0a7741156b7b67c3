"""When a run makes a checkpoint: every so many steps or seconds, and when a signal asks for one."""

import argparse
import contextlib
import signal
import time

import numpy as np

SIGNALS = signal.SIGUSR1, signal.SIGTERM
NOTHING, SNAPSHOT, SAVE, STOP = range(4)  # what a rank wants, each more than the one before; STOP is the end, too
EPOCH = "epoch"


def interval(text):
    """An argparse type: steps as in 100, seconds as in 30s, or epoch; (steps or None, seconds or None)."""
    digits, seconds = text.removesuffix("s"), text.endswith("s")
    if text == EPOCH:
        return None, None
    if not digits.isdecimal() or not 0 < int(digits) < 10**12:
        raise argparse.ArgumentTypeError(f"expected steps as in 100, seconds as in 30s, or {EPOCH}, got {text!r}")
    return (None, int(digits)) if seconds else (int(digits), None)


class Never:
    """Nobody wants a checkpoint; snapshots are made when Snapshots, if there are any, say that they are due."""

    steps, listening = None, contextlib.nullcontext

    def __init__(self, snapshots=None):
        self.snapshots = snapshots

    def own(self):
        """Nothing."""
        return NOTHING

    def after_step(self, done):
        """A snapshot, if one is due."""
        return SNAPSHOT if self.snapshots and self.snapshots.is_due(done) else NOTHING

    def between_epochs(self, last):
        """A snapshot."""
        return SNAPSHOT if self.snapshots and not last else NOTHING

    def close(self):
        """There is nothing to give back."""


class Requests(Never):
    """Whether a checkpoint is wanted after a step, on all ranks alike.

    Signals, and the first rank's clock, are looked at in a sum over the ranks that compute; it begins when a step ends
    and is waited for when the next one ends, so that a fast rank can be a step ahead.

    every     (steps or None, seconds or None); neither: at the end of each epoch
    workers   ranks that compute, the first ones
    channel   what moves messages meanwhile
    """

    def __init__(self, ranks, channel, every, workers, snapshots=None):
        super().__init__(snapshots)
        self.ranks, self.channel, (self.steps, self.seconds) = ranks, channel, every
        self.signalled, self.saved, self.result, self.request = False, time.monotonic(), NOTHING, None
        self.computing = ranks.rank < workers
        self.comm = ranks.split(self.computing)
        self.wanted = np.zeros(1, np.int64)

    @contextlib.contextmanager
    def listening(self):
        """A block in which signals ask for a checkpoint and the end, instead of ending the run at once."""
        handlers = {number: signal.signal(number, self._heard) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _heard(self, number, frame):
        self.signalled = True

    def own(self):
        """What this rank wants now."""
        due = self.seconds and self.ranks.rank == 0 and time.monotonic() - self.saved >= self.seconds
        return STOP if self.signalled else SAVE if due else NOTHING

    def after_step(self, done):
        """What all ranks want when so many steps have been made."""
        if self.request is not None:
            self._finish()
        due = SAVE if self.steps and done % self.steps == 0 else super().after_step(done)
        result, self.result = max(self.result, due), NOTHING
        if result < STOP:
            self.wanted[0] = self.own()
            with self.channel.engine.held():
                self.request = self.comm.Iallreduce(self.ranks.MPI.IN_PLACE, self.wanted, op=self.ranks.MPI.MAX)
        return result

    def between_epochs(self, last):
        """What all ranks want now, and after the last epoch they do; all of them call it."""
        if self.request is not None:
            self._finish()
        wanted = int(self.ranks.most(max(self.own(), self.result)))
        self.result = NOTHING
        regular = SAVE if last or not (self.steps or self.seconds) else super().between_epochs(last)
        return max(wanted, regular)

    def is_saved(self):
        """A checkpoint is being made now."""
        self.saved = time.monotonic()

    def close(self):
        """Give the communicator back."""
        if self.request is not None:
            self._finish()
        self.comm.Free()

    def _arrived(self):
        with self.channel.engine.held():
            return self.request.Test()

    def _finish(self):
        self.channel.wait(self._arrived, "what all ranks want to do next")
        self.request, self.result = None, int(self.wanted[0])
