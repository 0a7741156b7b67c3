"""The exact schedule that a simulation says is fastest here."""

import json

import numpy as np

from mpilayer.base.errors import UserError
from mpilayer.base.state import State
from mpilayer.model.programs import Work
from mpilayer.model.step import Prediction, predict
from mpilayer.model.wire import Wire
from mpilayer.schedules.base import Schedule
from mpilayer.schedules.layerwise import Layerwise
from mpilayer.schedules.oneshot import OneShot
from mpilayer.schedules.planned import Planned, pieces, profile_of
from mpilayer.schedules.split import Split

KINDS = {"layerwise": Layerwise, "oneshot": OneShot, "planned": Planned, "split": Split}
OPTIONS = {"layerwise": {"apply": "lazy"}}
PROFILED, TRIED = 4, 12  # steps that are observed: layer-wise ones, and of a choice
ALIKE = 0.97  # a prediction must be so much better than what was measured to be tried


class Auto(Schedule):
    """The same numbers as one-shot, by whichever of oneshot, layerwise, planned and split is fastest.

        4 steps layer by layer: the times of the layers
        simulate all of these, with pieces of three sizes ; go on with that of the least predicted seconds
        12 steps later, once: if another was predicted to take less than this has taken, try that for 12 steps ;
        go on with the faster one

    The first rank's choice is everyone's. Each change drains first, so every gradient is applied once and in order.
    """

    kept_sums = replicated = only_updates = True
    measured = PROFILED + 2 * TRIED

    def __init__(self, net, queue, optimizer):
        super().__init__(net, queue, optimizer)
        self.name, self.chunk, self.seen = "layerwise", queue.settings.chunk, 0
        self.predicted, self.taken = {}, {}  # {name: (seconds, exposed ones, size of a piece)} and {name: seconds}
        self._follow(self.name, self.chunk)

    def _follow(self, name, chunk):
        """From here on do as that schedule does; nothing is in flight."""
        self.name, self.chunk = name, chunk
        self.channel.settings = self.channel.settings._replace(chunk=chunk)
        self.now = KINDS[name](self.net, self.channel, self.optimizer, **OPTIONS.get(name, {}))
        if name == "planned":
            self.now.seen = self.now.measured  # the plan is made here

    @property
    def prediction(self):
        """Of the schedule that was chosen, or None."""
        return Prediction(*self.predicted[self.name][:2], []) if self.predicted else None

    def step(self, t, batch):
        """As the schedule that was chosen; from time to time choose."""
        self.now.step(t, batch)
        self.seen += 1
        if self.seen == PROFILED:
            self._choose()
        elif self.seen in (PROFILED + TRIED, PROFILED + 2 * TRIED):
            self._correct()

    def drain(self):
        """As the schedule that was chosen."""
        self.now.drain()

    def rest(self):
        """As the schedule that was chosen."""
        self.now.rest()

    def _choose(self):
        """Go on with what is predicted to be fastest."""
        self.drain()
        self.predicted = self.channel.ranks.bcast(self._predictions(profile_of(self.net, self.channel)))
        best = min(self.predicted, key=lambda name: self.predicted[name][0])
        self._follow(best, self.predicted[best][-1])
        told = ", ".join(f"{name} {1e3 * seconds:.1f}" for name, (seconds, *_) in self.predicted.items())
        self.channel.say(f"auto: {best}; predicted ms a step: {told}")

    def _predictions(self, computing):
        settings, found = self.channel.settings, {}
        for name in self._possible():
            for chunk in pieces(settings.chunk):
                work = Work(computing, self.net.layers, self.channel.cut(chunk=chunk))
                seconds, exposed, _ = predict(name, work, Wire.of(settings.link, settings.lanes))
                if name not in found or seconds < found[name][0]:
                    found[name] = seconds, exposed, chunk
        return found

    def _possible(self):
        """Names of the schedules that can send what travels, and do what they are for."""
        settings, compressor = self.channel.settings, self.channel.compressor
        for name, kind in KINDS.items():
            try:
                compressor.check(settings.reduction, kind.queue_options.get("order", "backward"))
            except UserError:
                continue
            if kind.queue_options.get("order") == "need" and not self.channel.moves_while_computing:
                continue
            if not kind.wires or settings.wire in kind.wires:
                yield name

    def _correct(self):
        """Compare with what the steps have taken; try the next best, or go back to the best."""
        queue = self.channel
        seconds = queue.bcast(queue.total(np.array([queue.trace.period() or 0.0]))[0] / queue.ranks.size)
        self.taken[self.name] = seconds
        self.channel.say(f"auto: {self.name} takes {1e3 * seconds:.1f} ms a step,"
                         f" {1e3 * self.predicted[self.name][0]:.1f} were predicted")
        if self.seen == PROFILED + TRIED:
            others = [(value, name) for name, value in self.predicted.items()
                      if name != self.name and value[0] < ALIKE * seconds]
            chosen = min(others)[1] if others else self.name
        else:
            chosen = min(self.taken, key=self.taken.get)
        if chosen != self.name:
            self.drain()
            self._follow(chosen, self.predicted[chosen][-1])
            self.channel.say(f"auto: from here on {chosen}")

    def state(self):
        """As of the schedule that was chosen, with the choice."""
        course = [self.name, self.chunk, self.seen, self.predicted, self.taken]
        return self.now.state() | State(values={"auto": json.dumps(course)})

    def restore(self, values):
        """As of the schedule that was chosen, which is that there was."""
        name, chunk, self.seen, self.predicted, self.taken = json.loads(values["auto"])
        self._follow(name, chunk)
        self.now.restore(values)
