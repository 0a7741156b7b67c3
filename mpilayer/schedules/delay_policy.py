"""How many steps late gradients are applied: always as many, none at first, as few as hide communication, or only those
of layers that need it.

A policy has `first`, the delay to begin with, next(t, delay): the delay from step t on, and lag(layer, delay): that of
a layer, no more than that of all. It is told when a step begins and ends, when a drain begins, and with a context
around what waits for a layer's sum.
"""

import contextlib

import numpy as np

MOST = 3  # steps of delay, as in the paper
WINDOW = 20  # steps between two looks
VISIBLE = 0.03  # of the time: less waiting than this counts as hidden
FULL = 0.97  # of the time with messages in flight: a link so busy gains nothing by more delay


class Constant:
    """The same delay in all steps."""

    keeps = ()

    def __init__(self, delay):
        self.first = delay

    def next(self, t, delay):
        """The same delay."""
        return delay

    def lag(self, layer, delay):
        """That of all layers."""
        return delay

    def waiting(self, schedule, layer, t):
        """A constant delay observes nothing."""
        return contextlib.nullcontext()

    def before_step(self, schedule):
        """A constant delay observes nothing."""

    def after_step(self, schedule):
        """A constant delay observes nothing."""

    def before_drain(self, schedule):
        """A constant delay observes nothing."""


class AfterWarmup(Constant):
    """Early gradients change fast, and late ones cost most then: no delay in the first n steps, from then on k."""

    def __init__(self, delay, steps):
        super().__init__(0)
        self.delay, self.steps = delay, steps

    def next(self, t, delay):
        """The later delay from step n on."""
        return self.delay if t >= self.steps else delay


class Adaptive(Constant):
    """Which the paper promises and does not describe (Daily, Vishnu, Siegel: adaptive delay). Here:

        k = 0 ; patience = 4 ; after every 20 steps, but for the first, in which ranks still gather:
            hidden = little waiting, or the link was never idle    (means over the ranks)
            if not hidden and k < 3:      k = k + 1 ; if k was left before: patience = 2 * patience
            elif patience looks were hidden:   k = max(k - 1, 0)

    A change of k drains first, so every gradient is applied once and in order. What happens between a drain and the
    next step, an evaluation say, is not part of the time. The first rank's figures are everyone's.
    """

    keeps, keeps_equal = ("patience", "hidden", "lowered", "begun", "steps", "spent"), False

    def __init__(self):
        super().__init__(0)
        self.patience, self.hidden, self.lowered, self.begun = 4, 0, False, False
        self.steps, self.start, self.spent = 0, None, np.zeros(3)

    def before_step(self, schedule):
        """The clock runs."""
        if self.start is None:
            self.start = self._readings(schedule.channel)

    def before_drain(self, schedule):
        """It stands still until the next step."""
        if self.start is not None:
            self.spent += self._readings(schedule.channel) - self.start
            self.start = None

    def after_step(self, schedule):
        """Every so many steps, review the delay."""
        self.steps += 1
        if self.steps == WINDOW:
            self.before_drain(schedule)
            spent, self.spent, self.steps = self.spent, np.zeros(3), 0
            if self.begun:
                self.review(schedule, self.shares(schedule.channel, spent))
            self.begun = True

    def review(self, schedule, share):
        """Raise the delay, lower it, or leave it."""
        hidden = share["exposed"] < VISIBLE or share["busy"] > FULL
        self.hidden = self.hidden + 1 if hidden else 0
        if not hidden and schedule.delay < MOST:
            self.patience *= 2 if self.lowered else 1
            self._change(schedule, schedule.delay + 1, share, lowered=False)
        elif self.hidden >= self.patience and schedule.delay > 0:
            self._change(schedule, schedule.delay - 1, share, lowered=True)

    @staticmethod
    def _readings(queue):
        return np.array([queue.trace.now(), queue.trace.exposed, queue.engine.busy()])

    def shares(self, queue, spent):
        """Means over the ranks of the shares of the time since the last look: the same numbers on all ranks."""
        total, exposed, busy = queue.bcast(queue.total(spent))
        return {"exposed": exposed / total, "busy": busy / total}

    def _change(self, schedule, delay, share, *, lowered):
        schedule.channel.say(f"delay {schedule.delay} -> {delay}: waiting {share['exposed']:.0%} of the time,"
                             f" messages in flight {share['busy']:.0%}")
        self.lowered, self.hidden = lowered, 0
        schedule.change(delay)


class ByLayer(Constant):
    """Only layers whose sums do not arrive in time are a step late (the idea of SAPipe: Chen et al. 2022). Here:

        no layer is late ; after every 20 steps, but for the first, in which ranks still gather, for each layer:
            if it is not late, and ranks waited for it for more than 1% of the time:    it is late from here on
            if it is late, and each time its sum had arrived before the layer was read, on all ranks,
            so many looks in a row:                                                      it is late no more

    So many is 1 at first, and twice as many each time that the layer has become late again. A layer that changes is
    not drained: in that step it applies two sums, or none. The sums over all ranks decide, so they decide alike.
    """

    WAITED = 0.01  # of the time
    SETTLED = 4 * WINDOW  # steps until it has mostly decided
    keeps, keeps_equal = ("lags", "looks", "patience", "begun", "steps", "seen"), False

    def __init__(self, layers):
        super().__init__(1)
        names = [layer.name for layer in layers]
        self.sizes = {layer.name: layer.w.size for layer in layers}
        self.lags, self.looks, self.patience = (dict.fromkeys(names, number) for number in (0, 0, 1))
        self.begun, self.steps, self.start, self.seen = False, 0, 0.0, np.zeros(len(names) + 1)  # the last: seconds

    def lag(self, layer, delay):
        """0 or 1."""
        return self.lags[layer.name]

    @contextlib.contextmanager
    def waiting(self, schedule, layer, t):
        """Of a layer that is late count when its newest sum is not there, of another how long that is waited for."""
        queue, number = schedule.channel, list(self.lags).index(layer.name)
        before = queue.trace.exposed
        missed = self.lags[layer.name] and t > 0 and not queue.has_arrived(layer.name, t - 1)
        yield
        self.seen[number] += missed if self.lags[layer.name] else queue.trace.exposed - before

    def before_step(self, schedule):
        """The clock runs: what happens between two steps, an evaluation say, is not part of the time."""
        self.start = schedule.channel.trace.now()

    def after_step(self, schedule):
        """Every so many steps, review all layers."""
        queue, self.steps = schedule.channel, self.steps + 1
        self.seen[-1] += queue.trace.now() - self.start
        if self.steps == WINDOW:
            seen = queue.bcast(queue.total(self.seen))
            self.seen, self.steps = np.zeros_like(self.seen), 0
            if self.begun:
                self._review(schedule, seen[:-1], seen[-1])
            self.begun = True

    def _review(self, schedule, seen, seconds):
        before = dict(self.lags)
        for (name, lag), number in zip(before.items(), seen, strict=True):
            if not lag and number > self.WAITED * seconds:
                self.lags[name], self.looks[name] = 1, 0
            elif lag:
                self.looks[name] = 0 if number else self.looks[name] + 1
                if self.looks[name] == self.patience[name]:
                    self.lags[name] = 0
                    self.patience[name] *= 2
        if self.lags != before:
            late = [name for name, lag in self.lags.items() if lag]
            numbers = sum(self.sizes[name] for name in late)
            schedule.channel.say(f"a step late: {', '.join(late) or 'no layer'}; {numbers:,} of"
                                 f" {sum(self.sizes.values()):,} parameters")
