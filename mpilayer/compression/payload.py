"""What of a gradient travels, for one gradient buffer: all numbers, the largest, or factors of its matrices.

A cargo encodes a layer's gradient when it is final, has the Stages that sum a message, and decodes what has arrived.
Encoding and decoding happen where the gradients are; what MPI sees are `mirrors` of that, on the CPU the same memory.
"""

import math
from typing import NamedTuple

import numpy as np

import kernels
from mpilayer.compression.buckets import LINE
from mpilayer.compression.codecs import CODECS
from mpilayer.gpu.staging import Here
from mpilayer.mpi.collectives import Calls, scattered
from mpilayer.schedules.shards import place


class Route(NamedTuple):
    """Where cargo goes: `places` of the layers in the gradient, `travel`: in what travels, `messages` cut from that.

    errors   {layer: what has not travelled yet}, which all gradient buffers have in common
    stage    how it comes to where MPI sums it
    """

    calls: Calls
    reduction: object
    settings: NamedTuple
    errors: dict
    messages: list
    places: dict
    travel: dict
    stage: Here


def _laid_out(sizes):
    """{name: (begin, end)} one after the other, each from a cache line on."""
    ends = np.cumsum([-(-size // LINE) * LINE for size in sizes.values()])
    return {name: (int(end) - -(-size // LINE) * LINE, int(end))
            for (name, size), end in zip(sizes.items(), ends, strict=True)}


class Cargo:
    """`gradient` {layer: view of the buffer}; `whole`: layers must not be cut into pieces."""

    whole = True

    def __init__(self, route, net):
        self.route = route
        self.gradient = {name: net.whole.g[slice(*ends)] for name, ends in route.places.items()}
        self.prepare(net)

    def error(self, name):
        """What of a layer has not travelled yet."""
        return self.route.errors.setdefault(name, np.zeros_like(self.gradient[name]))


class Everything(Cargo):
    """All numbers: the gradient buffer itself, or a rounded copy."""

    whole = False

    @staticmethod
    def places(net, settings):
        """As in the gradient."""
        return {layer.name: place(net, layer) for layer in net.layers}

    def prepare(self, net):
        """Memory for what travels."""
        self.codec = CODECS[self.route.settings.wire]
        self.buffer = self.codec.buffer(net.whole.g)
        self.mirror = self.route.stage.mirror(self.buffer)

    def _travelling(self, name):
        return self.buffer[slice(*self.route.places[name])]

    def encode(self, name):
        """Round, if asked for."""
        error = self.error(name) if self.route.settings.feedback else None
        self.codec.encode(self.gradient[name], self._travelling(name), error)

    def decode(self, name):
        """Back to float32."""
        self.codec.decode(self._travelling(name), self.gradient[name])

    def _part(self, number):
        message = self.route.messages[number]
        return slice(message.begin, message.end)

    def copies(self, number):
        """(array, its mirror) of what MPI reads of a message, and of what it writes."""
        part = self._part(number)
        both = self.buffer[part], self.mirror[part]
        return both, both

    def stages(self, number, lane):
        """Of the sum of a message."""
        return self.route.reduction.stages(self.mirror[self._part(number)], lane)

    def halves(self, number, first, last):
        """The Stages of its reduce-scatter, in one lane, and of its all-gather, in another."""
        calls, buffer = self.route.calls, self.mirror[self._part(number)]
        room = np.empty(calls.size * (buffer.size // calls.size + 1), buffer.dtype)  # between the two
        scatter, gather = scattered(calls, buffer, room, first, last)
        return (scatter,), (gather,)


def _words(net, shape):
    """Zeros, where the net is."""
    return np.zeros_like(net.weights, dtype=np.int32, shape=shape)


class TopK(Cargo):
    """The largest numbers of each layer and where they belong; the rest is added to its next gradient.

    Aji and Heafield 2017; Lin et al. 2018; error feedback: Stich et al. 2018.
    """

    @staticmethod
    def places(net, settings):
        """Two words for each number that travels."""
        return _laid_out({layer.name: 2 * max(1, round(settings.top_share * layer.g.size))
                          for layer in net.backward_layers})

    def prepare(self, net):
        """Memory for what all ranks send."""
        self.count = {layer.name: 2 * max(1, round(self.route.settings.top_share * layer.g.size))
                      for layer in net.layers}
        mirror = self.route.stage.mirror
        self.mine = _words(net, max(end for _, end in self.route.travel.values()))
        self.rooms = [_words(net, (self.route.calls.size, m.end - m.begin)) for m in self.route.messages]
        self.mirrors = mirror(self.mine), [mirror(room) for room in self.rooms]
        self.home = {name: (room, self.route.travel[name][0] - message.begin)
                     for message, room in zip(self.route.messages, self.rooms, strict=True) for name in message.layers}

    def encode(self, name):
        """Choose."""
        begin = self.route.travel[name][0]
        kernels.topk_encode(self.gradient[name], self.error(name), self.mine[begin:begin + self.count[name]])

    def decode(self, name):
        """Add up, in the order of ranks."""
        room, begin = self.home[name]
        kernels.topk_decode(room[:, begin:begin + self.count[name]].copy(), self.gradient[name])

    def copies(self, number):
        """As above."""
        message, (mine, rooms) = self.route.messages[number], self.mirrors
        part = slice(message.begin, message.end)
        return (self.mine[part], mine[part]), (self.rooms[number], rooms[number])

    def stages(self, number, lane):
        """Everybody's to everybody."""
        calls, ((_, mine), (_, room)) = self.route.calls, self.copies(number)
        P, size, kind = *room.shape, calls.MPI.INT32_T
        return (calls.stage(lane, "Allgatherv", [mine, kind], [room, np.full(P, size), np.arange(P) * size, kind]),)


class Factors(NamedTuple):
    """Of a matrix g (n,m) that travels as P (n,r) and Q (r,m); e (n,m) is what has not travelled yet."""

    g: np.ndarray
    e: np.ndarray
    P: np.ndarray
    Q: np.ndarray


def _matrices(layer, rank):
    """For each parameter (part, numbers in P, numbers in Q) of its matrix (all dimensions but the last, the last).

    What is no larger as it is travels as it is, in the place of P.
    """
    for part, shape in layer.shapes.items():
        n, m = math.prod(shape[:-1]), shape[-1]
        small = len(shape) == 1 or rank * (n + m) >= n * m
        yield part, (n * m, 0) if small else (n * rank, m * rank)


def _matrix(layer, part, flat):
    """A parameter's matrix in a layer's flat memory."""
    names = list(layer.shapes)
    begin = sum(math.prod(layer.shapes[name]) for name in names[:names.index(part)])
    shape = layer.shapes[part]
    return flat[begin:begin + math.prod(shape)].reshape(-1, shape[-1])


class PowerSGD(Cargo):
    """Each weight matrix as the product of two thin ones; what that lacks is added to its next gradient.

    Vogels et al. 2019, algorithms 1 and 2, with Q of the step before to begin with:

        M = g + e ; P = Allreduce(M Q^T) ; orthonormalize P ; Q = Allreduce(P^T M) ; g = P Q ; e = M - g / ranks
    """

    @staticmethod
    def places(net, settings):
        """All P and what is small, then all Q."""
        return _laid_out({layer.name: sum(sum(sizes) for _, sizes in _matrices(layer, settings.matrix_rank))
                          for layer in net.backward_layers})

    def prepare(self, net):
        """Memory for the factors, of which a message's first ones lie together, and its second ones."""
        self.buffer = np.zeros(max(end for _, end in self.route.travel.values()), np.float32)
        self.factors, self.plain, self.ends, self.tables = {}, {}, [], []
        layers = {layer.name: layer for layer in net.layers}
        for message in self.route.messages:
            self._lay_out(message, [layers[name] for name in message.layers])

    def _lay_out(self, message, layers):
        rank, matrices = self.route.settings.matrix_rank, []
        found = [(layer, part, *sizes) for layer in layers for part, sizes in _matrices(layer, rank)]
        first, second = message.begin, message.begin + sum(P for _, _, P, _ in found)
        self.ends.append((message.begin, second, second + sum(Q for _, _, _, Q in found)))
        for layer, part, P, Q in found:
            g, e = (_matrix(layer, part, flat) for flat in (self.gradient[layer.name], self.error(layer.name)))
            head, tail = self.buffer[first:first + P], self.buffer[second:second + Q]
            first, second = first + P, second + Q
            if Q:
                tail[:] = np.random.default_rng(int(second)).standard_normal(Q, np.float32)
                matrices.append(Factors(g, e, head.reshape(-1, rank), tail.reshape(rank, -1)))
                self.factors.setdefault(layer.name, []).append(matrices[-1])
            else:
                self.plain.setdefault(layer.name, []).append((g.reshape(-1), head))
        self.tables.append(np.array([[g.ctypes.data, *g.shape, P.ctypes.data, Q.ctypes.data, rank]
                                     for g, _, P, Q in matrices], np.int64))

    def encode(self, name):
        """P = (g + e) Q^T."""
        for g, e, P, Q in self.factors.get(name, ()):
            kernels.lowrank_project(g, e, Q, P)
        for g, head in self.plain.get(name, ()):
            head[:] = g

    def decode(self, name):
        """g = P Q."""
        for g, e, P, Q in self.factors.get(name, ()):
            kernels.lowrank_expand(g, e, P, Q, self.route.calls.size)
        for g, head in self.plain.get(name, ()):
            g[:] = head

    def stages(self, number, lane):
        """The sum of the first factors, Q = P^T M, the sum of the second."""
        begin, middle, end = self.ends[number]
        table = self.tables[number]
        first = self.route.reduction.stages(self.buffer[begin:middle], lane)
        if not len(table):
            return first
        (second,) = self.route.reduction.stages(self.buffer[middle:end], lane)
        turn = (kernels.lowrank_turn_address(), table.ctypes.data, len(table))
        return *first, second._replace(work=turn, keep=(*second.keep, table))


WIRES = {"float32": Everything, "bfloat16": Everything, "topk": TopK, "powersgd": PowerSGD}
