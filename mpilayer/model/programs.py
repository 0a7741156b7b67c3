"""What a rank does by each schedule, as the simulation has it: computing, posting, waiting."""

import itertools
from typing import NamedTuple

from mpilayer.compression.buckets import due
from mpilayer.model.simulation import End, Message, Wait


class Work(NamedTuple):
    """Of a step, whatever the schedule.

    profile   Profile            layers   in the order of forward
    buckets   messages of a gradient (compression.buckets.Bucket)
    copy      seconds in which a byte is copied
    """

    profile: object
    layers: list
    buckets: list
    copy: float = 0.0

    @property
    def sizes(self):
        """Bytes of float32 of each message."""
        return [4 * (bucket.end - bucket.begin) for bucket in self.buckets]

    @property
    def needed(self):
        """{layer: numbers of the messages that it waits for, and no layer before it}"""
        first = {number: self.layers[place].name for number, place in enumerate(due(self.buckets, self.layers))}
        return {layer.name: [number for number, name in first.items() if name == layer.name] for layer in self.layers}

    @property
    def released(self):
        """{layer: numbers of the messages that may go when its gradient is there}"""
        last = {number: [name for name in self.profile.backward if name in bucket.layers][-1]
                for number, bucket in enumerate(self.buckets)}
        return {name: [number for number, layer in last.items() if layer == name] for name in self.profile.backward}


class Program:
    """The base of all: `steps` training steps of a Work."""

    in_order = 0  # messages of a step, where none overtakes another
    copied = 0, 0  # how often a layer's weights are copied before they are read, and after its gradient is there

    def __init__(self, work, delay=0, period=1):
        size = {layer.name: layer.w.nbytes for layer in work.layers} if work.copy and any(self.copied) else {}
        self.read, self.written = ({name: times * work.copy * size.get(name, 0) for name in work.profile.forward}
                                   for times in self.copied)
        self.work, self.delay, self.period = work, delay, period
        self.sizes, self.needed, self.released = work.sizes, work.needed, work.released
        self.due = due(work.buckets, work.layers)

    def steps(self, count, factors=None):
        """An iterator of actions; a step computes as many times as long as the factors say, in turn."""
        for t, factor in zip(range(count), itertools.cycle(factors or [1.0]), strict=False):
            profile = self.work.profile
            yield profile.head * factor
            for name, seconds in profile.forward.items():
                yield from self.before(t, name)
                yield seconds * factor + self.read[name]
            for name, seconds in profile.backward.items():
                yield seconds * factor + self.written[name]
                yield from self.after(t, name)
            yield profile.tail * factor
            yield from self.end(t)
            yield End()

    def before(self, t, name):
        """In forward, before a layer is read."""
        return [Wait((t - 1 - self.delay, number)) for number in self.needed[name] if t > self.delay]

    def after(self, t, name):
        """In backward, after a layer's gradient is there."""
        return [self.message(t, number) for number in self.released[name]]

    def message(self, t, number):
        """A bucket of a step."""
        return Message((t, number), self.sizes[number], (t, 0))

    def end(self, t):
        """After backward."""
        return ()


class OneShot(Program):
    """All at once after backward; nothing is computed until it is there."""

    def before(self, t, name):
        """Nothing is on its way."""
        return ()

    after = before

    def end(self, t):
        """One message of all."""
        return Message((t, 0), sum(self.sizes)), Wait((t, 0))


class Layerwise(Program):
    """By layers, as they come; also with a delay."""


class Planned(Program):
    """What forward reads first overtakes the rest."""

    def message(self, t, number):
        """Its place in forward is when it is due."""
        return Message((t, number), self.sizes[number], (t, self.due[number]))


class Split(Program):
    """Halves: reduce-scatters as they come, then all-gathers in the order of forward."""

    def __init__(self, work, delay=0, period=1):
        super().__init__(work, delay, period)
        self.in_order, M = 2 * len(self.sizes), len(self.sizes)
        self.gather = {number: M + place for place, number in enumerate(sorted(range(M), key=self.due.__getitem__))}

    def message(self, t, number):
        """The first half, which the second follows."""
        half, last = self.sizes[number] / 2, self.gather[number]
        return Message((t, number), half, (t, number), Message((t, last), half, (t, last), part=0.5), part=0.5)

    def before(self, t, name):
        """The second halves must be there."""
        return [Wait((t - 1, self.gather[number])) for number in self.needed[name] if t]


class Local(Program):
    """Every `period` steps the weights are averaged, which may be `delay` steps late."""

    copied = 1, 1

    def before(self, t, name):
        """Those of the last period, if they are due now."""
        last = t - 1 - self.delay
        return [Wait((last, number)) for number in self.needed[name] if last >= 0 and (last + 1) % self.period == 0]

    def after(self, t, name):
        """At the end of a period."""
        return super().after(t, name) if (t + 1) % self.period == 0 else ()


class Server(Program):
    """Gradients are pushed, and weights come back: two messages, of half a sum each; of whole layers."""

    copied = 2, 2  # into messages and out of them, of a worker and of a server

    def message(self, t, number):
        """To the servers, then from them."""
        half = self.sizes[number] / 2
        answer = Message((t, number, "answer"), half, (t, 0), part=None)
        return Message((t, number), half, (t, 0), answer, part=None)

    def before(self, t, name):
        """The answers."""
        return [Wait((t - 1, number, "answer")) for number in self.needed[name] if t]


class Gossip(Program):
    """Weights are exchanged with one other rank: what a sum of two ranks moves, of whole layers."""

    copied = 3, 2


PROGRAMS = {"oneshot": OneShot, "layerwise": Layerwise, "planned": Planned, "split": Split, "delayed": Layerwise,
            "local-sgd": Local, "diloco": Local, "elastic": Local, "ps": Server, "gossip": Gossip}
WHOLE_LAYERS = {"ps", "gossip"}  # whose messages are a layer each
