"""Whether a thread or the hooks move messages: a few steps of each in turn, and the faster stays."""

import time

import numpy as np

ORDER = "thread", "poll", "thread", "poll"
STEPS = 3  # of each, of which the first is not counted: the one before it was ended for it
GAIN = 0.98  # polling needs no thread: it stays unless the thread brings this much


class Trial:
    """The trial of a queue (mpilayer.GradientQueue), which begins with the first of ORDER."""

    def __init__(self, queue):
        self.queue, self.step, self.seconds, self.last = queue, 0, dict.fromkeys(ORDER, 0.0), time.perf_counter()

    @property
    def over(self):
        """Whether it is decided."""
        return self.step == len(ORDER) * STEPS

    def end_of_step(self):
        """A step has ended on all ranks; call this until it is over."""
        now = time.perf_counter()
        if self.step % STEPS:
            self.seconds[ORDER[self.step // STEPS]] += now - self.last
        self.step += 1
        if self.over:
            thread, poll = self.queue.total(np.array([self.seconds["thread"], self.seconds["poll"]]))
            self._use("thread" if thread < GAIN * poll else "poll")
        elif self.step % STEPS == 0:
            self._use(ORDER[self.step // STEPS])
        self.last = time.perf_counter()

    def _use(self, progress):
        """Move messages in that way from here on, when those in flight have arrived."""
        if progress != self.queue.settings.progress:
            self.queue.complete()
            self.queue.pause()
            self.queue.settings = self.queue.settings._replace(progress=progress)
            self.queue.resume()
