"""The transforms of fast convolution with small filters, as vector code (Winograd 1980; Lavin and Gray 2016).

    m outputs of a filter of r taps, by n = m + r - 1 products:     y = A^T [ (G g) * (B^T d) ]

That is multiplication of polynomials by their values at n points, transposed (Toom 1963, Cook 1966). The points are 0,
pairs +p and -p, and infinity; which pairs decides the rounding error, and ours were the best of some hundred tried.
In two dimensions every transform is applied to the columns of a small square, then to its rows.
"""

import functools
from fractions import Fraction
from math import prod

from llvmlite import ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.progress import tick
from kernels.vectors import I64, ISAS, Vectors, integer, isa

PAIRS = {4: ("1",), 6: ("2/3", "3/2"), 8: ("1/2", "1", "2")}  # n: the pairs
DATA, FILTER, OUTPUT, GRADIENT, WEIGHTS = range(5)
ARGUMENTS = 12
WORK = 8  # nanoseconds for a channel of a square, about


def _points(n):
    pairs = [Fraction(p) for p in PAIRS[n]]
    return [Fraction(0), *(q for p in pairs for q in (p, -p))]


def _expand(roots):
    """Coefficients of the product of (x - root), lowest first."""
    coefficients = [Fraction(1)]
    for root in roots:
        coefficients = [a - root * b for a, b in zip([0, *coefficients], [*coefficients, 0], strict=True)]
    return coefficients


def matrices(m, r):
    """A^T (m,n), G (n,r) and B^T (n,n) as lists of Fractions."""
    n = m + r - 1
    points = _points(n)
    others = [[q for q in points if q != p] for p in points]
    a = [[p**i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    g = [[p**j / prod(p - q for q in rest) for j in range(r)] for p, rest in zip(points, others, strict=True)]
    b = [[*_expand(rest), Fraction(0)] for rest in others]
    return a, [*g, [Fraction(j == r - 1) for j in range(r)]], [*b, _expand(points)]


def _transposed(matrix):
    return [list(column) for column in zip(*matrix, strict=True)]


def linear(kind, m, r):
    """(matrix, whether it leads to the points) of one of the five transforms.

    DATA, FILTER and OUTPUT make y; the gradient by g is G^T [ (A dy) * (B^T d) ], hence GRADIENT and WEIGHTS.
    """
    a, g, b = matrices(m, r)
    return {DATA: (b, True), FILTER: (g, True), OUTPUT: (a, False),
            GRADIENT: (_transposed(a), True), WEIGHTS: (_transposed(g), False)}[kind]


class _Transform(Vectors):
    """Vectors that can be combined with constant coefficients."""

    def combine(self, coefficients, values):
        """The sum of coefficient * value."""
        total = None
        for coefficient, value in zip(coefficients, values, strict=True):
            if coefficient == 0:
                continue
            factor = ir.Constant(self.vector, [float(coefficient)] * self.lanes)
            if total is None:
                total = value if coefficient == 1 else self.fmul(factor, value)
            elif coefficient == 1:
                total = self.fadd(total, value)
            else:
                total = self.intrinsic("llvm.fma.*", self.vector, factor, value, total)
        return total

    def to_points(self, matrix, values):
        """At -p the even powers count as at p, the odd ones negative."""
        found = [self.combine(matrix[0], values)]
        for plus, minus in zip(matrix[1:-1:2], matrix[2:-1:2], strict=True):
            even = self.combine([a if a == b else 0 for a, b in zip(plus, minus, strict=True)], values)
            odd = self.combine([a if a != b else 0 for a, b in zip(plus, minus, strict=True)], values)
            found += [self.fadd(even, odd), self.fsub(even, odd)]
        return [*found, self.combine(matrix[-1], values)]

    def from_points(self, matrix, values):
        """The sums and the differences of pairs serve every row."""
        pairs = list(zip(values[1:-1:2], values[2:-1:2], strict=True))
        sums, differences = [self.fadd(*pair) for pair in pairs], [self.fsub(*pair) for pair in pairs]
        found = []
        for row in matrix:
            even = row[1:-1:2] == row[2:-1:2]
            middle = sums if even else differences
            found.append(self.combine([row[0], *row[1:-1:2], row[-1]], [values[0], *middle, values[-1]]))
        return found


def _square(bld, matrix, apply, load, store):
    """Apply to the columns of a square, then to its rows."""
    taps = range(len(matrix[0]))
    columns = [apply(matrix, [load(i, j) for i in taps]) for j in taps]
    for i, row in enumerate(zip(*columns, strict=True)):
        for j, value in enumerate(apply(matrix, list(row))):
            store(i, j, value)


def _variant(module, lanes, kind, m, r, masked):
    """A function that transforms one vector of channels of one square."""
    name = f"transform_{kind}_{m}_{r}{'m' if masked else ''}"
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 9), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    left, source, s_row, s_column, target, t_row, t_column, bias, relu = function.args
    bld = _Transform(function.append_basic_block("enter"), lanes, 1)
    if masked:
        bld.cut(left)
    matrix, to_points = linear(kind, m, r)

    def at(start, row, i, column, j):
        return bld.add(start, bld.add(bld.mul(row, integer(i)), bld.mul(column, integer(j))))

    def load(i, j):
        return bld.load_vector(at(source, s_row, i, s_column, j), 0)

    def store(i, j, value):
        if kind == OUTPUT:
            value = bld.clipped(bld.fadd(value, start), floor)
        bld.store_vector(value, at(target, t_row, i, t_column, j), 0, cut=not to_points)

    if kind == OUTPUT:
        start, floor = bld.load_vector(bias, 0), bld.floor(bld.icmp_signed("!=", relu, integer(0)))
    _square(bld, matrix, bld.to_points if to_points else bld.from_points, load, store)
    bld.ret_void()
    return function


@intrinsic(prefer_literal=True)
def _transform(typing, lanes, kind, m, r, whole, arguments):
    """Emit the function for whole or for cut vectors and call it."""
    def generate(context, builder, signature, values):
        constants = [t.literal_value for t in signature.args[:5]]
        function = _variant(builder.module, *constants[:4], masked=not constants[4])
        builder.call(function, cgutils.unpack_tuple(builder, values[5]))
        return context.get_dummy_value()

    return types.void(lanes, kind, m, r, whole, arguments), generate


@functools.cache
def transform(kind, m, r):
    """Address of a C function (count, channels, source, row, column, step, target, row, column, step, bias, relu).

    It transforms `count` squares a step apart; row, column and step are the byte strides of source and of target.
    Channels are neighbours; points have room for whole vectors of them, the last filled up with zeros. OUTPUT adds
    the bias, as many floats as channels, and clips at zero if `relu`.
    """
    lanes = ISAS[isa()].lanes

    @cfunc(types.void(*[types.intp] * ARGUMENTS), cache=True)
    def squares(count, channels, source, s_row, s_column, s_step, target, t_row, t_column, t_step, bias, relu):
        for i in range(count):
            a, b, whole = source + i * s_step, target + i * t_step, channels // lanes * lanes
            for c in range(0, whole, lanes):
                _transform(lanes, kind, m, r, 1, (lanes, a + 4 * c, s_row, s_column, b + 4 * c, t_row, t_column,
                                                  bias + 4 * c, relu))
            if whole < channels:
                _transform(lanes, kind, m, r, 0, (channels - whole, a + 4 * whole, s_row, s_column, b + 4 * whole,
                                                  t_row, t_column, bias + 4 * whole, relu))
            tick(WORK * channels)

    return squares.address
