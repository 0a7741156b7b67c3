"""The register tile under convolution and dense layers, emitted as LLVM vector code.

    C[i, j]  =  start  +  sum over blocks t, over k < depth of  A[t][i, k] * B[t][k, j]        i < rows, j < columns

A is read one float at a time and broadcast, B by vectors, C stays in registers until the end. `start` is C itself,
a bias or zero; the end may clip at zero (ReLU). Which strides A, B and C have is the caller's business: rows that are
neighbouring pixels of a channels-last image and blocks that are filter rows make it a convolution, no copy needed
(the batch-reduce GEMM of Georganas et al., "High-Performance Deep Learning via a Single Building Block", 2019).

One C function holds the whole family, a variant for each number of rows and of vectors, so remainders run at speed.
It is compiled once and called through its address: a kernel that uses it stays small and compiles fast.
"""

import functools
import os
from typing import NamedTuple

from llvmlite import binding, ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
ACCUMULATE, RELU = 1, 2
ARGUMENTS = 16


class Isa(NamedTuple):
    """Floats in a vector, and the largest tile: rows * vectors + vectors + 1 must fit the vector registers."""

    lanes: int
    rows: int
    vectors: int


ISAS = {"avx512": Isa(16, 14, 2), "avx2": Isa(8, 6, 2), "plain": Isa(4, 6, 2)}


def isa():
    """The name of the instruction set in use: KERNELS_ISA, or the best this processor has."""
    features = binding.get_host_cpu_features()
    best = "avx512" if features.get("avx512f") else "avx2" if features.get("avx2") and features.get("fma") else "plain"
    name = os.environ.get("KERNELS_ISA", best)
    if name not in ISAS:
        raise ValueError(f"KERNELS_ISA={name}: choose one of {', '.join(ISAS)}")
    return name


def _int(value, kind=I64):
    return ir.Constant(kind, value)


class _Vectors(ir.IRBuilder):
    """An IR builder that knows vectors of `lanes` floats; the last of a row may be cut to the columns asked for."""

    def __init__(self, block, lanes, vectors):
        super().__init__(block)
        self.lanes, self.last, self.mask = lanes, vectors - 1, None
        self.vector = ir.VectorType(F32, lanes)

    def cut(self, columns):
        """From here on the last vector of a row ends at `columns`."""
        numbers = ir.VectorType(I64, self.lanes)
        left = self.splat(self.sub(columns, _int(self.last * self.lanes)), numbers)
        self.mask = self.icmp_signed("<", ir.Constant(numbers, list(range(self.lanes))), left)

    def intrinsic(self, name, result, *arguments):
        """Call an LLVM intrinsic whose name ends with the vector's type where it contains a star."""
        kinds = ir.FunctionType(result, [a.type for a in arguments])
        full = name.replace("*", f"v{self.lanes}f32")
        return self.call(self.module.declare_intrinsic(full, (), kinds), arguments)

    def splat(self, scalar, kind=None):
        """The scalar in every lane."""
        empty = ir.Constant(kind or self.vector, ir.Undefined)
        one = self.insert_element(empty, scalar, _int(0, I32))
        return self.shuffle_vector(one, empty, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def zero(self):
        """No floats yet."""
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def at(self, address, number, step):
        """Pointer to address + number * step."""
        number = _int(number) if isinstance(number, int) else number
        return self.inttoptr(self.add(address, self.mul(step, number)), ir.PointerType())

    def vector_at(self, address, j):
        """Pointer to the j-th vector of a row."""
        return self.at(address, j, _int(4 * self.lanes))

    def load_vector(self, address, j):
        """The j-th vector of the row at an address."""
        pointer = self.vector_at(address, j)
        if self.mask and j == self.last:
            return self.intrinsic("llvm.masked.load.*.p0", self.vector, pointer, _int(4, I32), self.mask, self.zero())
        return self.load(pointer, align=4, typ=self.vector)

    def store_vector(self, value, address, j):
        """Write the j-th vector of the row at an address."""
        pointer = self.vector_at(address, j)
        if self.mask and j == self.last:
            self.intrinsic("llvm.masked.store.*.p0", ir.VoidType(), value, pointer, _int(4, I32), self.mask)
        else:
            self.store(value, pointer, align=4)

    def carried(self, kind, **sources):
        """A phi node; `sources` maps a block (by name) to the value that comes from there."""
        node = self.phi(kind)
        for name, value in sources.items():
            node.add_incoming(value, next(b for b in self.function.blocks if b.name == name))
        return node

    def flag(self, mode, bit):
        """Whether `mode` has that bit."""
        return self.icmp_signed("!=", self.and_(mode, _int(bit)), _int(0))


def _variant(module, lanes, rows, vectors, masked):
    """One member of the family as an LLVM function; `masked` if the last vector is a partial one."""
    signature = ir.FunctionType(ir.VoidType(), [I64] * (ARGUMENTS - 1))
    function = ir.Function(module, signature, f"tile_{rows}x{vectors}{'m' if masked else ''}")
    function.linkage = "internal"
    function.attributes.add("noinline")
    (columns, depth, a, a_row, a_k, b, b_k, c, c_row, blocks, a_offsets, b_offsets, mode, bias, ahead) = function.args
    enter, given, outer, inner, close, ending, more_of_c, leave = (
        function.append_basic_block(name)
        for name in ("enter", "given", "outer", "inner", "close", "ending", "more_of_c", "leave"))
    cells = [(i, j) for i in range(rows) for j in range(vectors)]
    bld = _Vectors(enter, lanes, vectors)
    if masked:
        bld.cut(columns)

    # sums start from the bias, the same in every row, or from nothing
    accumulate = bld.flag(mode, ACCUMULATE)
    bld.cbranch(bld.or_(accumulate, bld.icmp_signed("==", bias, _int(0))), outer, given)
    bld.position_at_end(given)
    row = [bld.load_vector(bias, j) for j in range(vectors)]
    start = {(i, j): row[j] for i, j in cells}
    bld.branch(outer)

    bld.position_at_end(outer)
    t = bld.carried(I64, enter=_int(0), given=_int(0))
    total = {cell: bld.carried(bld.vector, enter=bld.zero(), given=start[cell]) for cell in cells}
    a_start = bld.add(a, bld.load(bld.at(a_offsets, t, _int(8)), typ=I64))
    b_start = bld.add(b, bld.load(bld.at(b_offsets, t, _int(8)), typ=I64))
    bld.branch(inner)

    bld.position_at_end(inner)
    k = bld.carried(I64, outer=_int(0))
    a_at, b_at = bld.carried(I64, outer=a_start), bld.carried(I64, outer=b_start)
    sums = {cell: bld.carried(bld.vector, outer=total[cell]) for cell in cells}
    right = [bld.load_vector(b_at, j) for j in range(vectors)]
    for j in range(vectors):
        soon = bld.vector_at(bld.add(b_at, ahead), j)
        bld.intrinsic("llvm.prefetch.p0", ir.VoidType(), soon, _int(0, I32), _int(3, I32), _int(1, I32))
    new = {}
    for i in range(rows):
        left = bld.splat(bld.load(bld.at(a_at, i, a_row), align=4, typ=F32))
        for j in range(vectors):
            new[i, j] = bld.intrinsic("llvm.fma.*", bld.vector, left, right[j], sums[i, j])
    more = bld.add(k, _int(1))
    for node, value in [(k, more), (a_at, bld.add(a_at, a_k)), (b_at, bld.add(b_at, b_k)),
                        *((sums[cell], new[cell]) for cell in cells)]:
        node.add_incoming(value, inner)
    bld.cbranch(bld.icmp_signed("<", more, depth), inner, close)

    bld.position_at_end(close)
    following = bld.add(t, _int(1))
    for node, value in [(t, following), *((total[cell], new[cell]) for cell in cells)]:
        node.add_incoming(value, close)
    bld.cbranch(bld.icmp_signed("<", following, blocks), outer, ending)

    bld.position_at_end(ending)
    bld.cbranch(accumulate, more_of_c, leave)
    bld.position_at_end(more_of_c)  # added last: rounding errors grow with the longest sum, so sums stay short
    grown = {(i, j): bld.fadd(bld.load_vector(bld.add(c, bld.mul(c_row, _int(i))), j), new[i, j]) for i, j in cells}
    bld.branch(leave)
    bld.position_at_end(leave)
    new = {cell: bld.carried(bld.vector, ending=new[cell], more_of_c=grown[cell]) for cell in cells}
    floor = bld.splat(bld.select(bld.flag(mode, RELU), ir.Constant(F32, 0.0), ir.Constant(F32, float("-inf"))))
    for i, j in cells:  # compared so that NaN stays NaN
        clipped = bld.select(bld.fcmp_ordered("<", new[i, j], floor), floor, new[i, j])
        bld.store_vector(clipped, bld.add(c, bld.mul(c_row, _int(i))), j)
    bld.ret_void()
    return function


@intrinsic(prefer_literal=True)
def _family(typing, lanes, rows, vectors, arguments):
    """Emit every variant and jump to the one for (rows, columns), the first two arguments."""
    def generate(context, builder, signature, values):
        width, tallest, widest = (t.literal_value for t in signature.args[:3])
        arguments = cgutils.unpack_tuple(builder, values[3])
        count, columns = arguments[:2]
        full = builder.sdiv(builder.add(columns, _int(width - 1)), _int(width))
        partial = builder.icmp_signed("!=", builder.srem(columns, _int(width)), _int(0))
        which = builder.add(builder.mul(builder.add(builder.mul(count, _int(widest + 1)), full), _int(2)),
                            builder.zext(partial, I64))
        done = builder.append_basic_block("done")
        jump = builder.switch(which, done)
        for r in range(1, tallest + 1):
            for v in range(1, widest + 1):
                for masked in (0, 1):
                    function = _variant(builder.module, width, r, v, masked)
                    block = builder.append_basic_block(function.name)
                    jump.add_case(_int((r * (widest + 1) + v) * 2 + masked), block)
                    builder.position_at_end(block)
                    builder.call(function, arguments[1:])
                    builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(lanes, rows, vectors, arguments), generate


@functools.cache
def tile():
    """(address of the family's C function, rows of its largest tile, largest columns) for the instruction set in use.

    The function takes any number of rows and cuts them into tiles of nearly the same height.
    """
    lanes, rows, vectors = ISAS[isa()]

    @cfunc(types.void(*[types.intp] * ARGUMENTS), cache=True)
    def family(count, columns, depth, a, a_row, a_k, b, b_k, c, c_row, blocks, a_offsets, b_offsets, mode, bias, ahead):
        tiles = -(-count // rows)
        for t in range(tiles):
            i, end = count * t // tiles, count * (t + 1) // tiles
            _family(lanes, rows, vectors, (end - i, columns, depth, a + i * a_row, a_row, a_k, b, b_k,
                                           c + i * c_row, c_row, blocks, a_offsets, b_offsets, mode, bias,
                                           ahead))

    return family.address, rows, vectors * lanes


@intrinsic
def call(typing, address, arguments):
    """Call the tile at `address`; every argument is an address, a byte stride, a count or a flag."""
    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [I64] * ARGUMENTS)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), cgutils.unpack_tuple(builder, values[1]))
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, ARGUMENTS)), generate
