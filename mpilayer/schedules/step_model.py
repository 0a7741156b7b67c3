"""What a step should take if messages go out by need: a simulation, to choose their size and to check a measurement."""

import heapq
from typing import NamedTuple

from mpilayer.compression.buckets import due


class Profile(NamedTuple):
    """Seconds of computing, by layer's name, in the order in which they happen.

    backward   what leads to each layer's gradient          tail   of backward after the last of them
    forward    what follows each layer's reading            head   of forward before the first is read
    """

    backward: dict
    tail: float
    head: float
    forward: dict

    @property
    def compute(self):
        """Of a whole step."""
        return sum(self.backward.values()) + self.tail + self.head + sum(self.forward.values())


class Prediction(NamedTuple):
    """Of a step: seconds in all, waiting among them, and the order in which messages go out."""

    seconds: float
    exposed: float
    order: list


def profile(net, seconds):
    """The Profile of a net, from {event's name: seconds} as a Trace has them."""
    return Profile({layer.name: seconds[f"backward {layer.name}"] for layer in net.backward_layers},
                   seconds["backward input"], seconds["forward input"],
                   {layer.name: seconds[f"update {layer.name}"] + seconds[f"forward {layer.name}"]
                    for layer in net.layers})


def _released(messages, profile):
    """For each message, when backward has produced all its gradients."""
    ready, now = {}, 0.0
    for name, seconds in profile.backward.items():
        now += seconds
        ready[name] = now
    return [max(ready[name] for name in message.layers) for message in messages]


def _carried(released, needed, seconds):
    """(order, when each arrives) on a link that carries one message after the other.

    Which is next is decided when the one before begins: earliest due date first, optimal if there were no such delay.
    """
    coming = sorted(range(len(released)), key=lambda m: (released[m], m))[::-1]
    waiting, order, arrival, decided, free = [], [], {}, 0.0, 0.0
    while coming or waiting:
        decided = decided if waiting else max(decided, released[coming[-1]])
        while coming and released[coming[-1]] <= decided:
            message = coming.pop()
            heapq.heappush(waiting, (needed[message], message))
        _, message = heapq.heappop(waiting)
        order.append(message)
        decided = max(free, decided)
        free = arrival[message] = decided + seconds[message]
    return order, arrival


def predict(messages, layers, profile, seconds):
    """The Prediction of a step; `seconds(message)` is its time on the link, `layers` are in the order of forward."""
    times = [seconds(message) for message in messages]
    order, arrival = _carried(_released(messages, profile), due(messages, layers), times)
    there = {}
    for number, message in enumerate(messages):
        for name in message.layers:
            there[name] = max(arrival[number], there.get(name, 0.0))
    now = sum(profile.backward.values()) + profile.tail + profile.head
    for name, computing in profile.forward.items():
        now = max(now, there[name]) + computing
    return Prediction(now, now - profile.compute, order)
