"""Each weight matrix travels as the product of two thin ones."""

import math
from typing import NamedTuple

import numpy as np

import kernels
from mpilayer.base.cli import Option, count
from mpilayer.compression.payload import Compressor, Payload
from mpilayer.compression.topk import padded


class Factors(NamedTuple):
    """Of a matrix g (n,m) that travels as P (n,r) and Q (r,m); e (n,m) is what has not travelled yet."""

    g: np.ndarray
    e: np.ndarray
    P: np.ndarray
    Q: np.ndarray


def _matrices(layer, rank):
    """For each parameter (part, numbers in P, numbers in Q) of its matrix (all dimensions but the last, the last).

    What is no larger as it is travels as it is, in place of P.
    """
    for part, shape in layer.shapes.items():
        n, m = math.prod(shape[:-1]), math.prod(shape[-1:])
        small = len(shape) < 2 or rank * (n + m) >= n * m
        yield part, (n * m, 0) if small else (n * rank, m * rank)


def _matrix(layer, part, flat):
    """A parameter's matrix in a layer's flat memory."""
    names = list(layer.shapes)
    begin = sum(math.prod(layer.shapes[name]) for name in names[:names.index(part)])
    shape = layer.shapes[part]
    return flat[begin:begin + math.prod(shape)].reshape(-1, math.prod(shape[-1:]))


class PowerSGDPayload(Payload):
    """The factors of one gradient buffer; of a message the first ones lie together, and the second ones.

    Before it is decoded the gradient buffer holds what this rank's factors were made from.
    """

    keeps, keeps_equal, lasting = ("flat", "buffer"), False, True

    def prepare(self):
        """Memory for the factors."""
        self.buffer = np.zeros(max(end for _, end in self.context.travel.values()), np.float32)
        self.factors, self.plain, self.ends, self.tables = {}, {}, [], []
        for bucket in self.context.buckets:
            self._lay_out(bucket, [self.context.layers[name] for name in bucket.layers])

    def _lay_out(self, bucket, layers):
        rank, matrices = self.compressor.matrix_rank, []
        found = [(layer, part, *sizes) for layer in layers for part, sizes in _matrices(layer, rank)]
        first, second = bucket.begin, bucket.begin + sum(P for _, _, P, _ in found)
        self.ends.append((bucket.begin, second, second + sum(Q for _, _, _, Q in found)))
        for layer, part, P, Q in found:
            g, e = (_matrix(layer, part, flat) for flat in (self.gradient[layer.name], self.residual(layer.name)))
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
            kernels.lowrank_expand(g, e, P, Q, self.context.calls.size)
        for g, head in self.plain.get(name, ()):
            g[:] = head

    def operations(self, number, lane):
        """The sum of the first factors, Q = P^T M, the sum of the second."""
        begin, middle, end = self.ends[number]
        table, reduction = self.tables[number], self.context.reduction
        first = reduction.operations(self.buffer[begin:middle], lane)
        if not len(table):
            return first
        (second,) = reduction.operations(self.buffer[middle:end], lane)
        turn = (kernels.lowrank_orthonormalize_address(), table.ctypes.data, len(table))
        return *first, second._replace(work=turn, keep=(*second.keep, table))


class PowerSGD(Compressor):
    """Each weight matrix travels as the product of two thin ones; what that lacks is added to its next gradient.

    matrix_rank   r, the rank of the factors: of a matrix (n,m) r (n + m) numbers travel

    Vogels et al. 2019, algorithms 1 and 2, with Q of the step before to begin with:

        M = g + e ; P = Allreduce(M Q^T) ; orthonormalize P ; Q = Allreduce(P^T M) ; g = P Q ; e = M - g / ranks
    """

    options = (Option("matrix_rank", "rank of the factors", count, 4, metavar="R"),)
    own_sums, payload = True, PowerSGDPayload
    refused_on_gpu = ("MPI makes factors from the gradient, which it cannot see there"
                      " | try: --wire topk or bfloat16")

    def __init__(self, matrix_rank=4):
        super().__init__()
        self.matrix_rank = matrix_rank

    def offsets(self, parameters):
        """{layer: (begin, end)} of what travels: all P and what is small, then all Q."""
        return padded({layer.name: sum(sum(sizes) for _, sizes in _matrices(layer, self.matrix_rank))
                       for layer in parameters.backward_layers})
