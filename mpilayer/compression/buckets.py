"""How the layers' gradients are cut into messages: small neighbours travel together, large layers in pieces."""

from typing import NamedTuple

import numpy as np

LINE = 16  # floats of a cache line: pieces of a layer begin on one


LATENCY_SHARE = 0.1  # of the time of a fused message that may be latency
PIECES, LEAST_CHUNK = 4, 1 << 20  # a chunk is so many buckets, and at least so many bytes


class Network(NamedTuple):
    """Seconds of a sum over the ranks: latency + bytes of float32 * per_byte."""

    latency: float
    per_byte: float

    @classmethod
    def between(cls, small, first, big, last):
        """Through two points: `small` bytes in `first` seconds, `big` in `last`."""
        per_byte = max(last - first, 1e-3 * last) / max(big - small, big / 2)
        return cls(max(first - small * per_byte, 0.1 * first), per_byte)

    def seconds(self, size):
        """Of a message of so many bytes of float32."""
        return self.latency + size * self.per_byte

    def share(self, size, lanes):
        """Of the link's time, a message of so many bytes among others: latency of `lanes` passes at once."""
        return self.latency / lanes + size * self.per_byte

    @property
    def bucket(self):
        """Bytes of which latency is a small share."""
        return int(self.latency / self.per_byte * (1 / LATENCY_SHARE - 1))

    @property
    def chunk(self):
        """Bytes of a piece of a large layer: of little latency, and soon over."""
        return max(LEAST_CHUNK, PIECES * self.bucket)

    def __str__(self):
        return f"{1e6 * self.latency:,.0f} us + {1e9 * self.per_byte:.2f} ns a byte"


class Message(NamedTuple):
    """Numbers `begin` to `end` of the flat gradient, the gradients of `layers` among them."""

    name: str
    begin: int
    end: int
    layers: tuple


def _pieces(name, begin, end, chunk):
    lines = -(-(end - begin) // LINE)
    count = min(-(-4 * (end - begin) // max(1, chunk)), lines)
    cuts = begin + np.arange(count + 1) * lines // count * LINE
    cuts[-1] = end
    for number, (a, b) in enumerate(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True), 1):
        yield Message(name if count == 1 else f"{name} {number}/{count}", a, b, (name,))


def cut(layers, bucket, chunk):
    """Messages for layers [(name, begin, end)] in the order of memory, which is that of backward.

    Neighbours are fused until they have `bucket` bytes; layers of more than `chunk` bytes are split evenly and fused
    with nothing. None is no limit.
    """
    messages, group = [], []

    def close():
        if group:
            names = tuple(name for name, _, _ in group)
            title = names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"
            messages.append(Message(title, group[0][1], group[-1][2], names))
            group.clear()

    for layer in layers:
        name, begin, end = layer
        if chunk is not None and 4 * (end - begin) > chunk:
            close()
            messages.extend(_pieces(name, begin, end, chunk))
            continue
        group.append(layer)
        if bucket is not None and 4 * (end - group[0][1]) >= bucket:
            close()
    close()
    return messages


def due(messages, layers):
    """For each message, the place in forward of the first layer that needs it; `layers` as forward reads them."""
    place = {layer.name: number for number, layer in enumerate(layers)}
    return [min(place[name] for name in message.layers) for message in messages]
