"""Momentum whose matrices are made orthogonal (Jordan et al. 2024, "Muon"), and AdamW for all else."""

import math
from typing import NamedTuple

import numpy as np

import kernels
from mpilayer.base.errors import UserError
from mpilayer.schedules.shards import Part
from mpilayer.training.optim.base import MOMENTUM
from mpilayer.training.optim.elementwise import AdamW

ROUNDS, FIFTH_DEGREE = 5, (3.4445, -4.7750, 2.0315)  # of the iteration, and its polynomial: Jordan et al.
AS_ADAM = 0.2  # root mean square of a matrix's moves, as those of AdamW are (Liu et al. 2025, "Muon is scalable")


def orthogonal(x):
    """Nearly the orthogonal matrix that is nearest to x (n,m) float32: its singular values come to about 0.7 to 1.2.

    Newton and Schulz's iteration, X = a X + b (X X^T) X + c (X X^T)^2 X from X = x / |x|, on the shorter side.
    """
    wide, (a, b, c) = x.shape[0] <= x.shape[1], FIFTH_DEGREE
    x = x / np.float32(math.sqrt(kernels.sum_of_squares(x)) + 1e-30)
    for _ in range(ROUNDS):
        square = kernels.matmul(x, x, transpose_a=not wide, transpose_b=wide)
        factor = kernels.matmul(square, square)
        factor *= np.float32(c)
        square *= np.float32(b)
        factor += square
        more = kernels.matmul(factor, x) if wide else kernels.matmul(x, factor)
        x *= np.float32(a)
        x += more
    return x


class Matrix(NamedTuple):
    """Numbers `begin` to `end` of a layer's flat weights, which are a matrix (rows, columns)."""

    begin: int
    end: int
    shape: tuple

    def of(self, flat):
        """It, of the layer's flat weights or gradient."""
        return flat[self.begin:self.end].reshape(self.shape)


def matrices(layers):
    """{layer's name: its Matrices}: filters as (R S C, K), weights as (C, K). Embeddings and the last layer have none.
    """
    found = {}
    for layer in layers:
        begin, found[layer.name] = 0, []
        for shape in getattr(layer, "shapes", {}).values():
            end = begin + math.prod(shape)
            if len(shape) > 1 and getattr(layer, "kind", "dense") != "other":
                found[layer.name].append(Matrix(begin, end, (math.prod(shape[:-1]), shape[-1])))
            begin = end
    last = next((name for name in reversed(found) if found[name]), None)
    return found | ({last: []} if last else {})


class Muon(AdamW):
    """For each matrix (n,m) of a layer:

        M = momentum M + g ; w = w - lr (0.2 sqrt(max(n, m)) orthogonal(momentum M + g) + weight_decay w)

    With schedule `ps` each rank does so for the matrices of its share of the layers, and sends all ranks the weights.

    All else, the embeddings and the last layer are AdamW's, with beta1 and beta2 and the same lr. A gradient that is D
    steps late may bring along what its momentum would have moved since, as in momentum_update of the kernels.
    """

    options = (MOMENTUM._replace(default=0.95), MOMENTUM._replace(name="beta1", help="of AdamW, for what is no matrix"),
               *AdamW.options[1:])
    keeps, whole_layers = (*AdamW.keeps, "velocity"), True

    def __init__(self, parameters, lr, *, momentum=0.95, beta1=0.9, **others):
        self.momentum, self.sizes = momentum, {layer.name: layer.w.size for layer in parameters.layers}
        self.matrices = matrices(parameters.layers)
        super().__init__(parameters, lr, momentum=beta1, **others)

    def prepare(self, layers):
        """Keep moments for each of these layers. Raises UserError for parts of layers, whose matrices are cut."""
        for layer in layers:
            if layer.w.size != self.sizes.get(layer.name):
                raise UserError(f"muon | {layer.name} | a part of a layer: its matrices cannot be made orthogonal"
                                " | try: a schedule whose ranks update whole layers, or another optimizer")
        super().prepare([part for layer in layers for part, _ in self._others(layer, layer.w)])
        self.velocity = {layer.name: tuple(np.zeros_like(matrix.of(layer.w)) for matrix in self.matrices[layer.name])
                         for layer in layers}

    def _others(self, layer, gradient):
        """(Part, gradient) of what lies before, between and behind a layer's matrices."""
        found = self.matrices[layer.name]
        begins, ends = [0, *(matrix.end for matrix in found)], [*(matrix.begin for matrix in found), layer.w.size]
        for begin, end in zip(begins, ends, strict=True):
            if begin < end:
                yield Part(f"{layer.name} {begin}", layer.w[begin:end]), gradient[begin:end]

    def apply(self, layer, gradient, *, rounded, **constants):
        """One update of a layer."""
        gradient = _float32(gradient)
        for part, its in self._others(layer, gradient):
            super().apply(part, its, rounded=None, **constants)
        for matrix, velocity in zip(self.matrices[layer.name], self.velocity[layer.name], strict=True):
            self._turn(matrix.of(layer.w), matrix.of(gradient), velocity, **constants)
        if rounded is not None:
            kernels.encode_bfloat16(layer.w, rounded.view(np.uint16))

    def _turn(self, w, g, velocity, *, lr, scale, late, weight_decay):
        """One update of a matrix; without delay the first two factors are Nesterov's."""
        old = self.momentum**(late + 1)
        new = (1 - old) / (1 - self.momentum)
        velocity *= np.float32(self.momentum)
        velocity += np.float32(scale) * g
        step = orthogonal(np.float32(old) * velocity + np.float32(new * scale) * g)
        w *= np.float32(1 - lr * weight_decay)
        w -= np.float32(lr * AS_ADAM * math.sqrt(max(w.shape))) * step


def _float32(gradient):
    """The gradient itself, or if it is bfloat16's bits what they are of."""
    if gradient.dtype == np.float32:
        return gradient
    wide = np.empty_like(gradient, dtype=np.float32)
    kernels.decode_bfloat16(gradient.view(np.uint16), wide)
    return wide
