"""Which messages the gradient of a step is sent as, and in which order they go."""

from mpilayer.base.errors import UserError
from mpilayer.compression.buckets import LINE, cut, due
from mpilayer.exchange.settings import one_of

ORDERS = ("backward", "need", "split")
INT_NUMBERS = 2**30  # of a message: MPI 3, and operators of our own in MPI 4, count with an int
MOST = 10_000  # messages of a step


def buckets_of(parameters, compressor, bucket, chunk, ranks):
    """The Buckets that a gradient makes with these sizes in bytes, on so many ranks. Raises UserError for too many
    messages, and for layers too large for one where they must not be cut.
    """
    offsets = compressor.offsets(parameters)
    layers = sorted(((name, *ends) for name, ends in offsets.items()), key=lambda layer: layer[1])
    most = 4 * (INT_NUMBERS // (ranks if compressor.gathers else 1))
    if compressor.whole:
        chunk = None
        _check_size(layers, most)
    else:
        chunk = min(chunk or most, most)
    _check_count(layers, chunk)
    return cut(layers, bucket, chunk, most)


def _check_size(layers, most):
    for name, begin, end in layers:
        if 4 * (end - begin) > most:
            raise UserError(f"{name} | a message of {end - begin:,} numbers | expected at most {most // 4:,}, for"
                            " MPI counts with an int | try: another wire")


def _check_count(layers, chunk):
    count = chunk and sum(-(-4 * (end - begin) // max(chunk, 4 * LINE)) for _, begin, end in layers)
    if count and count > max(MOST, len(layers)):
        raise UserError(f"chunk {chunk} | makes {count:,} messages a step | expected at most {MOST:,}"
                        f" | try: {4 * layers[-1][2] // MOST // 2**10 + 1}k or more")


class Messages:
    """The buckets of a step, numbered in order of backward; with order "split" each is two messages.

    parts   {layer: numbers of the buckets that hold it}          last    for each bucket, the message that ends it
    due     for each bucket, when forward needs it, or None       follow  for each message, the one after it, or -1
    labels  for each message, its name and its bytes of float32
    """

    def __init__(self, buckets, layers, order):
        self.buckets, self.order = buckets, one_of("order", order, ORDERS)
        self.parts = {layer.name: [number for number, bucket in enumerate(buckets) if layer.name in bucket.layers]
                      for layer in layers}
        self.labels = [(bucket.name, 4 * (bucket.end - bucket.begin)) for bucket in buckets]
        needed, M = due(buckets, layers), len(buckets)
        self.due, self.last, self.follow = needed if order == "need" else None, [*range(M)], None
        if order == "split":
            for number, message in enumerate(sorted(range(M), key=needed.__getitem__)):
                self.last[message] = M + number
                self.labels.append((f"{buckets[message].name} (gather)", self.labels[message][1]))
            self.follow = [*self.last, *[-1] * M]

    def operations(self, payload, slot, lanes):
        """The Operations of each message, from the payload of the gradient buffer of a slot."""
        M = len(self.buckets)
        if self.order != "split":
            return [payload.operations(number, (slot * M + number) % lanes) for number in range(M)]
        operations, first = [None] * (2 * M), 2 * slot * M
        for number, last in enumerate(self.last):
            both = (first + number) % lanes, (first + last) % lanes
            operations[number], operations[last] = payload.halves(number, *both)
        return operations

    def carrying(self, name):
        """(name, number) of the messages that a layer's gradient travels in, but those that are another layer's first
        of all; of halves both.
        """
        own = (number for number in self.parts[name] if self.buckets[number].layers[0] == name)
        return [(self.buckets[number].name, half) for number in own for half in {number: 0, self.last[number]: 0}]

    def begun_by(self, name, lacking):
        """Layers of the messages that begin with a layer, from how many layers each message of its buffer lacks."""
        begun = (self.buckets[number] for number in self.parts.get(name, ())
                 if lacking[number] == len(self.buckets[number].layers))
        return [layer for bucket in begun for layer in bucket.layers]

    def before(self, name):
        """Layers without which a layer's sum cannot arrive: messages start in order of their numbers."""
        last = max(self.last[number] for number in self.parts[name])
        return {other for other, parts in self.parts.items() if min(parts) <= last}


class Slot:
    """A gradient buffer, what travels for it, and how many layers each message still lacks."""

    keeps = "decoded", "payload"

    def __init__(self, payload, buckets):
        self.payload, self.lacking = payload, [len(bucket.layers) for bucket in buckets]
        self.decoded = set()  # layers whose sum is in the gradient buffer
