"""How the layers' gradients are cut into messages: small neighbours travel together, large layers in pieces."""

from typing import NamedTuple

import numpy as np

from kernels.layout import LINE_FLOATS as LINE


class Bucket(NamedTuple):
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
        yield Bucket(name if count == 1 else f"{name} {number}/{count}", a, b, (name,))


def cut(layers, bucket, chunk, most=None):
    """Messages for layers [(name, begin, end)] in the order of memory, which is that of backward.

    Neighbours are fused until they have `bucket` bytes; layers of more than `chunk` bytes are split evenly and fused
    with nothing; fused ones stay within `most`. None is no limit.
    """
    messages, group = [], []

    def close():
        if group:
            names = tuple(name for name, _, _ in group)
            title = names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}"
            messages.append(Bucket(title, group[0][1], group[-1][2], names))
            group.clear()

    for layer in layers:
        name, begin, end = layer
        if chunk is not None and 4 * (end - begin) > chunk:
            close()
            messages.extend(_pieces(name, begin, end, chunk))
            continue
        if group and most is not None and 4 * (end - group[0][1]) > most:
            close()
        group.append(layer)
        if bucket is not None and 4 * (end - group[0][1]) >= bucket:
            close()
    close()
    return messages


def due(messages, layers):
    """For each message, the place in forward of the first layer that needs it; `layers` as forward reads them."""
    place = {layer.name: number for number, layer in enumerate(layers)}
    return [min(place[name] for name in message.layers) for message in messages]
