"""How long a net computes: the times of its layers."""

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

    def scaled(self, factor):
        """The same, so many times as long."""
        longer = [{name: factor * seconds for name, seconds in part.items()} for part in (self.backward, self.forward)]
        return Profile(longer[0], factor * self.tail, factor * self.head, longer[1])


def profile(net, seconds):
    """The Profile of a net, from {event's name: seconds} as a Trace has them."""
    return Profile({layer.name: seconds[f"backward {layer.name}"] for layer in net.backward_layers},
                   seconds["backward input"], seconds["forward input"],
                   {layer.name: seconds[f"update {layer.name}"] + seconds[f"forward {layer.name}"]
                    for layer in net.layers})
