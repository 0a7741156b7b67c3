"""Ranks that are slower than they are: to see what a schedule makes of them."""

import time

import numpy as np


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


def slowed(net, traffic, options):
    """The net as --slow and --jitter want it on this rank."""
    rank = traffic.ranks.rank
    factor = dict(options.slow or ()).get(rank, 1.0)
    if factor == 1 and not options.jitter:
        return net
    return Slowed(net, factor, options.jitter, rank, traffic.rest)
