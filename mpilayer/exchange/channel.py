"""What all ways of sending share: who makes messages move meanwhile, waiting, and sums of a few numbers."""

import contextlib
import time
from typing import NamedTuple

from mpilayer.compression.buckets import Network
from mpilayer.gpu.staging import Coming
from mpilayer.mpi.progress import PROGRESS

LANES = 2  # enough to hide the latency of one behind the other
NAP = 1e-4  # seconds


class Settings(NamedTuple):
    """How gradients travel. `bucket`, `chunk` in bytes of float32, None for no limit; `lanes`: messages in flight.

    top_share: of a layer's numbers that `topk` sends        matrix_rank: of what `powersgd` sends
    cuda_aware: whether MPI may be given a GPU's memory
    """

    network: Network = Network(0.0, 0.0)
    progress: str = "poll"
    reduction: str = "native"
    wire: str = "float32"
    feedback: bool = False
    bucket: int | None = 0
    chunk: int | None = None
    cuda_aware: bool = False
    lanes: int = LANES
    top_share: float = 0.01
    matrix_rank: int = 4


class Traffic:
    """`engine` is what moves messages, None before something is opened; `how` gradients of a GPU come to MPI."""

    how = ""

    def __init__(self, ranks, trace, settings, say=lambda text: None):
        self.ranks, self.trace, self.settings, self.say = ranks, trace, settings, say
        self.engine, self._context = None, contextlib.ExitStack()

    @property
    def quiet(self):
        """Whether nothing is on its way."""
        return self.engine.quiet

    def resume(self):
        """Messages move from here on."""
        if self.settings.progress != "thread":  # else it is not this thread's time
            self.trace.moving = self.engine.inside
        self.move = self._context.enter_context(PROGRESS[self.settings.progress](self.engine))

    def pause(self):
        """Nothing moves from here on. Raises RuntimeError if something is in flight."""
        if self.engine and not (self.quiet or self.engine.error):
            raise RuntimeError("the request queue was stopped with sums in flight | expected a drain before")
        self._context.close()

    def close(self):
        """Give back what MPI made for this. Raises RuntimeError if something is in flight."""
        self.pause()

    def test(self):
        """Let messages move, if the way of progress is one that does so between layers."""
        if not self.quiet:
            with self.trace.span("mpi", "move"):
                self.move()

    def total(self, values):
        """Sum of a float64 array over the ranks, on every rank, while messages may be in flight."""
        with self.engine.held():
            return self.ranks.total(values)

    def wait(self, arrived, what, kind="exposed"):
        """Return when arrived() is true, and count the time as exposed, or of another kind."""
        if not arrived():
            with self.trace.span(kind, f"wait {what}"):
                self.ranks.until(arrived, what)

    def reached(self):
        """A function that tells whether all has been computed that was to be by now."""
        return lambda: True

    def read(self, number, what):
        """A number that is here, or Coming, as a float; messages move until it is here."""
        if isinstance(number, Coming):
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
