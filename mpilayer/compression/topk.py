"""The largest numbers of each layer travel, with their positions."""

import numpy as np

import kernels
from kernels.layout import offsets
from mpilayer.base.cli import Option, share
from mpilayer.base.errors import UserError
from mpilayer.compression.payload import Compressor, Payload

MOST = 2**31 - 1  # numbers of a layer


def _outside(pairs, size):
    """Which ranks sent positions that are not there, in words."""
    positions = pairs[:, :pairs.shape[1] // 2]
    ranks = np.flatnonzero(((positions < 0) | (positions >= size)).any(axis=1))
    return f"rank {', '.join(map(str, ranks))} sent positions outside 0..{size - 1}"


class TopKPayload(Payload):
    """Pairs of a number and its position, gathered from all ranks and added up in the order of ranks."""

    keeps = "flat", "received"

    def prepare(self):
        """Memory for what all ranks send."""
        context = self.context
        self.count = self.compressor.counts(list(context.layers.values()))
        self.mine = self._words(max(end for _, end in context.travel.values()))
        self.received = tuple(self._words((context.calls.size, bucket.end - bucket.begin))
                              for bucket in context.buckets)
        self.mirrors = context.mirror(self.mine), [context.mirror(each) for each in self.received]
        self.home = {name: (received, context.travel[name][0] - bucket.begin)
                     for bucket, received in zip(context.buckets, self.received, strict=True) for name in bucket.layers}

    def _words(self, shape):
        """Zeros, where the gradient is."""
        return np.zeros_like(self.flat, dtype=np.int32, shape=shape)

    def encode(self, name):
        """Pick the largest numbers of the gradient plus what has not travelled yet, with their positions."""
        begin = self.context.travel[name][0]
        kernels.topk_encode(self.gradient[name], self.residual(name), self.mine[begin:begin + self.count[name]])

    def decode(self, name):
        """Add up what all ranks sent, in the order of ranks."""
        received, begin = self.home[name]
        pairs, gradient = received[:, begin:begin + self.count[name]].copy(), self.gradient[name]
        try:
            kernels.topk_decode(pairs, gradient)
        except ValueError:
            raise UserError(f"{name} | {_outside(pairs, gradient.size)} | try: another --wire, and python -m"
                            " mpilayer.info: messages arrive damaged") from None

    def copies(self, number):
        """(array, its mirror) of what MPI reads of a message, and of what it writes."""
        bucket, (mine, received) = self.context.buckets[number], self.mirrors
        part = slice(bucket.begin, bucket.end)
        return (self.mine[part], mine[part]), (self.received[number], received[number])

    def operations(self, number, lane):
        """Every rank gets the pairs of all ranks."""
        calls, ((_, mine), (_, received)) = self.context.calls, self.copies(number)
        P, size, kind = *received.shape, calls.MPI.INT32_T
        layout = [received, np.full(P, size), np.arange(P) * size, kind]
        return (calls.operation(lane, "Allgatherv", [mine, kind], layout),)


class TopK(Compressor):
    """The largest numbers of each layer travel, with their positions; the rest is added to its next gradient.

    top_share   the share of a layer's numbers that travels

    Aji and Heafield 2017; Lin et al. 2018; error feedback: Stich et al. 2018.
    """

    options = (Option("top_share", "the share of a layer's numbers that travels", share, 0.01, metavar="SHARE"),)
    own_sums, gathers, payload = True, True, TopKPayload

    def __init__(self, top_share=0.01):
        super().__init__()
        self.top_share = top_share

    def counts(self, layers):
        """{layer: words that travel}: two for each number. Raises UserError for a layer that int32 cannot count."""
        for layer in layers:
            if layer.g.size > MOST:
                raise UserError(f"{layer.name} | {layer.g.size:,} numbers | top-k's positions go up to {MOST:,}"
                                " | try: another wire")
        return {layer.name: 2 * max(1, round(self.top_share * layer.g.size)) for layer in layers}

    def offsets(self, parameters):
        """{layer: (begin, end)} of what travels, in words of 32 bits."""
        return padded(self.counts(parameters.backward_layers))


def padded(sizes):
    """{name: (begin, end)} one after the other, each filling whole cache lines."""
    found, end = offsets(sizes)
    begins = [begin for begin, _ in found.values()]
    return dict(zip(found, zip(begins, [*begins[1:], end], strict=True), strict=True))
