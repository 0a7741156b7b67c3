"""What all ways of sending share: which code calls MPI so that messages advance, waiting, and sums of a few numbers."""

import contextlib
import time

from mpilayer.base.tracing import Trace
from mpilayer.exchange.settings import Settings
from mpilayer.mpi.progress import PROGRESS
from mpilayer.mpi.ranks import nap

NAP = 1e-4  # seconds

_running = []  # the channels of this process in which messages may move
_abandoned = []  # what MPI may still write to, of channels that ended with messages in flight


def running():
    """The channels of this process in which messages may move."""
    return tuple(_running)


def silent(text):
    """Print nothing."""


class Channel:
    """The base of GradientQueue and Mailbox.

    ranks         Ranks
    settings      Settings
    trace         Trace, which counts the time spent waiting
    say           a function that is called with a line of text when something was decided
    engine        what moves messages; None before something is opened
    description   how gradients of a GPU come to MPI, in words
    engine_alone  whether the engine does all that `move` does
    """

    description, engine_alone = "", False
    keeps = ()

    def __init__(self, ranks, settings=None, trace=None, say=silent):
        self.ranks, self.settings, self.say = ranks, settings or Settings(), say
        self.trace = trace or Trace(keep=0)
        self.trace.doing = ranks.recorder.doing
        self.engine, self._context = None, contextlib.ExitStack()

    @property
    def quiet(self):
        """Whether nothing is on its way."""
        return self.engine is None or self.engine.quiet

    def resume(self):
        """Messages move from here on."""
        if self.settings.progress != "thread":  # else it is not this thread's time
            self.trace.moving = self.engine.inside
        self._between_layers = self._context.enter_context(PROGRESS[self.settings.progress](
            self.engine, self.settings.link, self.ranks.size))
        _running.append(self)
        self._context.callback(_running.remove, self)

    def pause(self):
        """Nothing moves from here on. Raises RuntimeError if something is in flight."""
        if self.engine and not (self.quiet or self.engine.error):
            raise RuntimeError("the request queue was stopped with sums in flight | expected a drain before")
        self._context.close()

    def close(self):
        """Give back what MPI made for this. Raises RuntimeError if something is in flight."""
        self.pause()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.close()
        finally:
            self.abandon()

    def abandon(self):
        """Move messages no more, whatever is in flight; nothing if it is closed. Its memory lives on, for MPI may still
        write there, and what MPI made is not freed.
        """
        if self.engine is not None:
            self._context.close()
            _abandoned.append(dict(vars(self)))
            self.engine = None

    def complete(self):
        """Wait until all that is on its way has come; nothing is taken in."""

    def restored(self):
        """What it keeps is as it was in another run."""

    def move(self):
        """Do what can be done for messages."""
        self.engine.advance()

    def move_between_layers(self):
        """Do what the way of progress leaves to the training loop."""
        self._between_layers()

    def test(self):
        """Let messages move, if the way of progress is one that does so between layers."""
        if not self.quiet:
            with self.trace.span("mpi", "move"):
                self.move_between_layers()

    def total(self, values):
        """Sum of a float64 array over the ranks, on every rank, while messages may be in flight."""
        with self.engine.held():
            return self.ranks.total(values)

    def bcast(self, value):
        """The first rank's value, while messages may be in flight."""
        with self.engine.held():
            return self.ranks.bcast(value)

    def wait(self, arrived, what, kind="exposed"):
        """Return when arrived() is true, and count the time as exposed, or of another kind; messages move meanwhile,
        those of other channels too, for another rank may be waiting for them.
        """
        seen = 0

        def moved():
            nonlocal seen
            for channel in _running:
                channel.move()
            seen = self.engine.arrivals
            return arrived()

        if not moved():
            with self.trace.span(kind, f"wait {what}"):
                alone = self.engine_alone and _running == [self]
                self.ranks.until(moved, what, (lambda pause: self.engine.rest(pause, seen)) if alone else nap)

    def reached(self):
        """A function that tells whether all has been computed that was to be by now."""
        return lambda: True

    def read(self, number, what):
        """A number that is here, or on its way from a GPU, as a float; messages move until it is here."""
        if hasattr(number, "done"):
            self.wait(lambda: number.done, what, "waiting")
        return float(number)

    def rest(self, seconds):
        """Do nothing for so long, but let messages move where kernels would."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if self.settings.progress == "kernel":
                self.engine.advance()
                left = min(left, NAP)
            time.sleep(left)
