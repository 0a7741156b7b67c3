"""In which order messages should go out, so that what the next forward reads first has arrived first.

The link carries one message after the other. Of those whose gradients are there, the one that is needed earliest goes
(earliest due date first, which is optimal if messages can be interrupted, and nearly so if they are short).
"""

import heapq
from typing import NamedTuple


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
    """Of a step: seconds in all, waiting among them, and the order of messages."""

    seconds: float
    exposed: float
    order: list


def _due(messages, profile):
    """For each message, the place in forward of the first layer that needs it."""
    place = {name: number for number, name in enumerate(profile.forward)}
    return [min(place[name] for name in message.layers) for message in messages]


def _released(messages, profile):
    """For each message, when backward has produced all its gradients."""
    ready, now = {}, 0.0
    for name, seconds in profile.backward.items():
        now += seconds
        ready[name] = now
    return [max(ready[name] for name in message.layers) for message in messages]


def earliest_due(messages, profile, seconds):
    """The order in which a link serves the messages if it always takes, of those released, the one due first.

    `seconds(message)` is its time on the link.
    """
    due, released = _due(messages, profile), _released(messages, profile)
    coming = sorted(range(len(messages)), key=lambda m: (released[m], m))[::-1]
    waiting, order, now = [], [], 0.0
    while coming or waiting:
        now = now if waiting else max(now, released[coming[-1]])
        while coming and released[coming[-1]] <= now:
            message = coming.pop()
            heapq.heappush(waiting, (due[message], message))
        _, message = heapq.heappop(waiting)
        order.append(message)
        now += seconds(messages[message])
    return order


def predict(messages, profile, seconds, order):
    """The Prediction of a step in which messages go out in that order."""
    released, arrival, free = _released(messages, profile), {}, 0.0
    for message in order:
        free = max(free, released[message]) + seconds(messages[message])
        for name in messages[message].layers:
            arrival[name] = max(free, arrival.get(name, 0.0))
    now = sum(profile.backward.values()) + profile.tail + profile.head
    for name, computing in profile.forward.items():
        now = max(now, arrival[name]) + computing
    return Prediction(now, now - profile.compute, list(order))
