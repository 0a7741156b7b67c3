"""What a sum over the ranks costs: latency and time a byte (the alpha-beta model)."""

import math
from typing import NamedTuple

LATENCY_SHARE = 0.1  # of the time of a fused message that may be latency
MOST_BUCKET = 64 << 20  # bytes, whatever noise a measurement had
PIECES, LEAST_CHUNK = 4, 1 << 20  # a chunk is so many buckets, and at least so many bytes
LOOK = 2e-6  # seconds that a look at messages takes from computing, with what it costs the caches
USUAL, OFTEN, SELDOM = 2e-4, 5e-5, 1e-3  # seconds between two looks: if no more is known, at least, and at most


class LinkModel(NamedTuple):
    """Seconds of a sum over the ranks: latency + bytes of float32 * per_byte.

    core   seconds a byte that it takes from computing, which goes on beside it
    """

    latency: float
    per_byte: float
    core: float = 0.0

    @classmethod
    def between(cls, small, first, big, last):
        """Through two points: `small` bytes in `first` seconds, `big` in `last`."""
        per_byte = max(last - first, 1e-3 * last) / max(big - small, big / 2)
        return cls(max(first - small * per_byte, 0.1 * first), per_byte)

    def seconds(self, size):
        """Of a message of so many bytes of float32."""
        return self.latency + size * self.per_byte

    def parts(self, size):
        """(latency, seconds of the transfer) of a message of so many bytes of float32."""
        return self.latency, size * self.per_byte

    @property
    def bucket(self):
        """Bytes of which latency is a small share, up to 64 MiB."""
        return min(MOST_BUCKET, int(self.latency / self.per_byte * (1 / LATENCY_SHARE - 1)))

    @property
    def chunk(self):
        """Bytes of a piece of a large layer: of little latency, and soon over."""
        return max(LEAST_CHUNK, PIECES * self.bucket)

    def interval(self, ranks, seconds=0.0):
        """Seconds from one look of a rank that computes to the next, for messages that take so many; default: a chunk.

        A sum goes on at a look only, of which the 2 log2 P rounds of halving and doubling need one each, and is late by
        half an interval i each time. log2(P) i / seconds + LOOK / i, the share of time lost, is least at this i.
        """
        seconds = seconds or (self.seconds(self.chunk) if self.per_byte else 0.0)
        best = math.sqrt(LOOK * seconds / math.log2(max(2, ranks)))
        return min(SELDOM, max(OFTEN, best)) if seconds else USUAL

    def __str__(self):
        return f"{1e6 * self.latency:,.0f} us + {1e9 * self.per_byte:.2f} ns a byte"
