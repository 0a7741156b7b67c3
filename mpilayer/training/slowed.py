"""Ranks that are slower than they are: to see what a schedule makes of them."""

import time

import numpy as np

from mpilayer.base.cli import number
from mpilayer.base.errors import UserError

MOST = 1000  # times as long


class Slowed:
    """A net that computes `factor` times as long as it does, and in each step longer by a random share.

    The share has an exponential distribution with mean `jitter`; it depends on the seed and the number of the step.
    rest(seconds) is how the time passes.
    """

    def __init__(self, net, factor, jitter, seed, rest):
        self._net, self._factor, self._jitter, self._rest = net, factor, jitter, rest
        self._random, self._now = np.random.default_rng(seed), factor

    def forward(self, batch):
        """As the net's."""
        self._now = self._factor * (1 + self._jitter * self._random.exponential())
        return self._stretched(self._net.forward(batch))

    def backward(self):
        """As the net's."""
        return self._stretched(self._net.backward())

    def _stretched(self, layers):
        begin = time.perf_counter()
        for layer in layers:
            self._rest((self._now - 1) * (time.perf_counter() - begin))
            yield layer
            begin = time.perf_counter()
        self._rest((self._now - 1) * (time.perf_counter() - begin))

    def __getattr__(self, name):
        return getattr(self._net, name)


def slowed(net, rank, slow, jitter, rest):
    """The net as a rank is to have it: `slow` lists (rank, factor), and rest(seconds) is how the time passes."""
    factor = dict(slow or ()).get(rank, 1.0)
    if factor == 1 and not jitter:
        return net
    return Slowed(net, factor, jitter, rank, rest)


def _slow(text):
    rank, _, factor = text.partition(":")
    return number(int, 0, "RANK:FACTOR, as in 1:3")(rank), number(float, 1, "a factor of 1 or more", MOST)(factor)


def add_options(p):
    """The options of how slow ranks pretend to be."""
    p.add_argument("--slow", type=_slow, action="append", metavar="RANK:FACTOR",
                   help="let a rank compute so many times as long; may be given several times")
    p.add_argument("--jitter", type=number(float, 0, "a number, not negative", MOST), default=0.0,
                   metavar="SHARE",
                   help="let every rank compute longer, in each step by a random share with this mean")


def check(options, ranks):
    """Raise UserError for a rank that is not there."""
    for rank, _ in options.slow or ():
        if rank >= ranks:
            raise UserError(f"--slow {rank}:...: expected a rank in 0..{ranks - 1}")
