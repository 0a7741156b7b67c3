"""All numbers travel: as they are, or rounded to bfloat16."""

import numpy as np

from kernels import gpu
from mpilayer.base.cli import Option
from mpilayer.compression.codecs import CODECS
from mpilayer.compression.payload import Compressor, Payload
from mpilayer.mpi.collectives import scattered


class DensePayload(Payload):
    """The gradient buffer itself, or a rounded copy."""

    def prepare(self):
        """Memory for what travels."""
        self.codec = self.compressor.codec
        self.buffer = self.codec.buffer(self.flat)
        self.copied = self.buffer is not self.flat
        self.keeps = ("flat", "buffer") if self.copied else ("flat",)
        self.mirror = self.context.mirror(self.buffer)
        self.context.reduction.share(self.mirror)

    def places(self):
        """Where it is sent from, unless what rounding loses must be kept, or this is a GPU, whose layers do not."""
        rounded = self.buffer.dtype == np.uint16 and not self.compressor.feedback and not gpu.is_array(self.buffer)
        return {name: self.as_sent(name) for name in self.gradient} if rounded else {}

    def as_sent(self, name):
        """Numbers in what travels."""
        return self.buffer[slice(*self.context.offsets[name])]

    def encode(self, name):
        """Round, if asked for and not done."""
        if self.copied and self.gradient[name] is self.sums[name]:
            residual = self.residual(name) if self.compressor.feedback else None
            self.codec.encode(self.gradient[name], self.as_sent(name), residual)

    def decode(self, name):
        """Back to float32."""
        if self.copied:
            self.codec.decode(self.as_sent(name), self.sums[name])

    def _part(self, number):
        bucket = self.context.buckets[number]
        return slice(bucket.begin, bucket.end)

    def copies(self, number):
        """(array, its mirror) of what MPI reads of a message, and of what it writes."""
        part = self._part(number)
        both = self.buffer[part], self.mirror[part]
        return both, both

    def operations(self, number, lane):
        """Of the sum of a message."""
        return self.context.reduction.operations(self.mirror[self._part(number)], lane)

    def halves(self, number, first, last):
        """The Operations of its reduce-scatter, in one lane, and of its all-gather, in another."""
        calls, buffer = self.context.calls, self.mirror[self._part(number)]
        parts = np.empty(calls.size * (buffer.size // calls.size + 1), buffer.dtype)  # between the two
        scatter, gather = scattered(calls, buffer, parts, first, last)
        return (scatter,), (gather,)


class Dense(Compressor):
    """All numbers travel as they are, in float32."""

    whole, payload, codec, feedback = False, DensePayload, CODECS["float32"], False

    def offsets(self, parameters):
        """{layer: (begin, end)} of what travels: as in the gradient."""
        return parameters.offsets


class Rounded(Dense):
    """Half the bytes: numbers are rounded to bfloat16, added up in float32, and rounded again.

    error_feedback   whether what the first rounding loses is added to the next gradient (Seide et al. 2014)
    """

    options = (Option("error_feedback", "add what rounding loses to the next gradient (topk, powersgd: always)", bool,
                      False),)
    codec = CODECS["bfloat16"]

    def __init__(self, error_feedback=False):
        super().__init__()
        self.feedback = error_feedback
