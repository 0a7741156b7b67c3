"""Layers in other memory than the net's: copies of its weights, and what of each belongs to which rank."""

from typing import NamedTuple

import numpy as np

import kernels
from kernels import gpu
from kernels.layout import LINE_FLOATS as LINE


class Part(NamedTuple):
    """What an optimiser and the request queue want of a layer: flat weights and gradient, one of them perhaps None."""

    name: str
    w: np.ndarray | None = None
    g: np.ndarray | None = None


def copy(net):
    """({layer's name: its weights}, flat memory) of a copy of the net's weights."""
    flat = np.empty_like(net.weights) if gpu.is_array(net.weights) else kernels.empty((net.weights.size,))
    flat[:] = net.weights
    return {name: flat[slice(*ends)] for name, ends in net.offsets.items()}, flat


class Shard(NamedTuple):
    """Numbers `begin` to `end` of a layer, which the owner keeps; in the net's memory they begin at `at`."""

    owner: int
    begin: int
    end: int
    at: int


def cuts(net, owners, whole=False):
    """Where the parts of the net's memory begin, and its end: a part for each owner, equal to a cache line, or of as
    nearly equal ones those of `whole` layers.
    """
    lines, end = net.weights.size // LINE, net.weights.size
    begins = [LINE * (lines * number // owners) for number in range(owners)]
    if whole:
        between = [*(begin for begin, _ in net.offsets.values()), end]
        begins = [0, *(min(between, key=lambda place: abs(place - begin)) for begin in begins[1:])]  # noqa: B023
    return [*begins, end]


def shared_out(net, owners, whole=False):
    """{layer's name: its Shards}, of the parts of so many owners."""
    ends, found = cuts(net, owners, whole), {}
    for layer in net.layers:
        first, last = net.offsets[layer.name]
        pieces = ((number, max(a, first), min(b, last)) for number, (a, b) in
                  enumerate(zip(ends[:-1], ends[1:], strict=True)))
        found[layer.name] = [Shard(number, a - first, b - first, a) for number, a, b in pieces if a < b]
    return found
