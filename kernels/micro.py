"""The micro-kernel under convolution, dense layers and attention, emitted as LLVM vector code.

    C[i, j]  =  start  +  sum over blocks t, over k < depth of  A[t][i, k] * B[t][k, j]        i < rows, j < columns

It computes one register tile of C, rows x columns, by outer products (Goto and van de Geijn 2008; BLIS): a column of A
is read float by float and broadcast, a row of B by vectors, C stays in registers until the end. docs/kernels.md has a
picture. `start` is C itself, a bias or zero; the end may clip at zero (ReLU). Which strides A, B and C have is the
caller's business: rows that are neighbouring pixels of a channels-last image and blocks that are filter rows make it a
convolution, no copy needed (the batch-reduce GEMM of Georganas et al., "High-Performance Deep Learning via a Single
Building Block", 2019).

One C function holds a variant for each number of rows and of vectors, so remainders run at speed. It is compiled once
and called through its address: a kernel that uses it stays small and compiles fast.

There is such a function for each kind of operands. Where they are bfloat16, an element of 4 bytes is a pair of numbers,
of k and k + 1: depth and strides count pairs, sums are float32 as ever, and C is float32, or bfloat16 if asked for.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels import compiled
from kernels.progress import tick
from kernels.vectors import F32, I32, I64, ISAS, Bfloats, Vectors, call, has, integer, isa

ACCUMULATE, RELU, BFLOAT16 = 1, 2, 4  # the last: what is stored
ARGUMENTS = 18
ZERO = np.zeros(1, np.intp)
WORK = 64  # products a nanosecond, about


class Floats:
    """Elements are float32."""

    shortened = Vectors.shortened

    @staticmethod
    def operand(bld, vector):
        """What `add` takes, of a vector of elements."""
        return vector

    @staticmethod
    def add(bld, left, right, total):
        """total + left * right."""
        return bld.intrinsic("llvm.fma.*", bld.vector, left, right, total)

    @classmethod
    def left(cls, bld, address, vectors):
        """An element of A, once for each vector of a row of C."""
        element = bld.load(bld.inttoptr(address, ir.PointerType()), align=4, typ=F32)
        return [cls.operand(bld, bld.splat(element))] * vectors


class Columns(Floats):
    """An element of A is a row of float32, a number for each column of C: C[i, j] += A[i, k][j] * B[k, j]."""

    @classmethod
    def left(cls, bld, address, vectors):
        """The vectors of that row."""
        return [bld.load_vector(address, j) for j in range(vectors)]


class Pairs(Floats):
    """Elements are pairs of bfloat16, which AVX512_BF16 multiplies and adds up at once; for it, what is below 2^-126 is
    zero.
    """

    @staticmethod
    def operand(bld, vector):
        """The same bits."""
        return bld.bitcast(vector, Bfloats(2 * bld.lanes))

    @staticmethod
    def add(bld, left, right, total):
        """total + left[0] * right[0] + left[1] * right[1]."""
        return bld.intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", bld.vector, total, left, right)

    @staticmethod
    def shortened(bld, value):
        """As Vectors has it, in one instruction."""
        found = bld.intrinsic("llvm.x86.avx512bf16.cvtneps2bf16.512", Bfloats(bld.lanes), value)
        return bld.bitcast(found, ir.VectorType(ir.IntType(16), bld.lanes))


class WidenedPairs(Floats):
    """The same for any processor: two float32 are made of each pair."""

    @staticmethod
    def operand(bld, vector):
        """(the first of each pair, the second), whose bits are the upper half of a float32's."""
        bits = bld.bitcast(vector, ir.VectorType(I32, bld.lanes))
        return (bld.bitcast(bld.shl(bits, ir.Constant(bits.type, [16] * bld.lanes)), bld.vector),
                bld.bitcast(bld.and_(bits, ir.Constant(bits.type, [0xFFFF0000] * bld.lanes)), bld.vector))

    @staticmethod
    def add(bld, left, right, total):
        """total + left[0] * right[0] + left[1] * right[1]."""
        for pair in zip(left, right, strict=True):
            total = bld.intrinsic("llvm.fma.*", bld.vector, *pair, total)
        return total


PRODUCTS = Floats, Pairs, WidenedPairs, Columns


def _variant(module, lanes, rows, vectors, masked, product):
    """LLVM function of the micro-kernel for a tile of rows x vectors; `masked` if the last vector is a partial one.

    product   one of PRODUCTS
    """
    signature = ir.FunctionType(ir.VoidType(), [I64] * (ARGUMENTS - 2))
    function = ir.Function(module, signature, f"tile_{rows}x{vectors}{'m' if masked else ''}")
    function.linkage = "internal"
    function.attributes.add("noinline")
    (columns, depth, a, a_row, a_k, b, b_k, c, c_row, blocks, a_offsets, b_offsets, mode, bias,
     prefetch, prefetch_k) = function.args
    enter, given, outer, inner, close, ending, more_of_c, leave = (
        function.append_basic_block(name)
        for name in ("enter", "given", "outer", "inner", "close", "ending", "more_of_c", "leave"))
    cells = [(i, j) for i in range(rows) for j in range(vectors)]
    bld = Vectors(enter, lanes, vectors)
    if masked:
        bld.cut(columns)

    # sums start from the bias, the same in every row, or from nothing
    accumulate = bld.flag(mode, ACCUMULATE)
    bld.cbranch(bld.or_(accumulate, bld.icmp_signed("==", bias, integer(0))), outer, given)
    bld.position_at_end(given)
    row = [bld.load_vector(bias, j) for j in range(vectors)]
    start = {(i, j): row[j] for i, j in cells}
    bld.branch(outer)

    bld.position_at_end(outer)
    t = bld.carried(I64, enter=integer(0), given=integer(0))
    prefetch_start = bld.carried(I64, enter=prefetch, given=prefetch)
    total = {cell: bld.carried(bld.vector, enter=bld.zero(), given=start[cell]) for cell in cells}
    a_start = bld.add(a, bld.load(bld.at(a_offsets, t, integer(8)), typ=I64))
    b_start = bld.add(b, bld.load(bld.at(b_offsets, t, integer(8)), typ=I64))
    bld.branch(inner)

    bld.position_at_end(inner)
    k = bld.carried(I64, outer=integer(0))
    a_at, b_at, prefetch_at = (bld.carried(I64, outer=start) for start in (a_start, b_start, prefetch_start))
    sums = {cell: bld.carried(bld.vector, outer=total[cell]) for cell in cells}
    right = [product.operand(bld, bld.load_vector(b_at, j)) for j in range(vectors)]
    for j in range(vectors):
        line = bld.vector_at(prefetch_at, j)
        bld.intrinsic("llvm.prefetch.p0", ir.VoidType(), line, integer(0, I32), integer(3, I32), integer(1, I32))
    new = {}
    for i in range(rows):
        left = product.left(bld, bld.add(a_at, bld.mul(a_row, integer(i))), vectors)
        for j in range(vectors):
            new[i, j] = product.add(bld, left[j], right[j], sums[i, j])
    more = bld.add(k, integer(1))
    prefetch_next = bld.add(prefetch_at, prefetch_k)
    for node, value in [(k, more), (a_at, bld.add(a_at, a_k)), (b_at, bld.add(b_at, b_k)), (prefetch_at, prefetch_next),
                        *((sums[cell], new[cell]) for cell in cells)]:
        node.add_incoming(value, inner)
    bld.cbranch(bld.icmp_signed("<", more, depth), inner, close)

    bld.position_at_end(close)
    following = bld.add(t, integer(1))
    for node, value in [(t, following), (prefetch_start, prefetch_next), *((total[cell], new[cell]) for cell in cells)]:
        node.add_incoming(value, close)
    bld.cbranch(bld.icmp_signed("<", following, blocks), outer, ending)

    bld.position_at_end(ending)
    bld.cbranch(accumulate, more_of_c, leave)
    bld.position_at_end(more_of_c)  # added last: rounding errors grow with the longest sum, so sums stay short
    grown = {(i, j): bld.fadd(bld.load_vector(bld.add(c, bld.mul(c_row, integer(i))), j), new[i, j]) for i, j in cells}
    bld.branch(leave)
    bld.position_at_end(leave)
    new = {cell: bld.carried(bld.vector, ending=new[cell], more_of_c=grown[cell]) for cell in cells}
    floor = bld.floor(bld.flag(mode, RELU))
    new = {cell: bld.clipped(new[cell], floor) for cell in cells}
    short, whole = function.append_basic_block("short"), function.append_basic_block("whole")
    bld.cbranch(bld.flag(mode, BFLOAT16), short, whole)
    bld.position_at_end(short)
    for i, j in cells:
        bld.store_short(product.shortened(bld, new[i, j]), bld.add(c, bld.mul(c_row, integer(i))), j)
    bld.ret_void()
    bld.position_at_end(whole)
    for i, j in cells:
        bld.store_vector(new[i, j], bld.add(c, bld.mul(c_row, integer(i))), j)
    bld.ret_void()
    return function


@intrinsic(prefer_literal=True)
def _family(typing, lanes, rows, vectors, product, arguments):
    """Emit every variant and jump to the one for (rows, columns), the first two arguments."""
    def generate(context, builder, signature, values):
        width, tallest, widest, product = (t.literal_value for t in signature.args[:4])
        arguments = cgutils.unpack_tuple(builder, values[4])
        count, columns = arguments[:2]
        full = builder.sdiv(builder.add(columns, integer(width - 1)), integer(width))
        partial = builder.icmp_signed("!=", builder.srem(columns, integer(width)), integer(0))
        which = builder.add(builder.mul(builder.add(builder.mul(count, integer(widest + 1)), full), integer(2)),
                            builder.zext(partial, I64))
        done = builder.append_basic_block("done")
        jump = builder.switch(which, done)
        for r in range(1, tallest + 1):
            for v in range(1, widest + 1):
                for masked in (0, 1):
                    function = _variant(builder.module, width, r, v, masked, PRODUCTS[product])
                    block = builder.append_basic_block(function.name)
                    jump.add_case(integer((r * (widest + 1) + v) * 2 + masked), block)
                    builder.position_at_end(block)
                    builder.call(function, arguments[1:])
                    builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(lanes, rows, vectors, product, arguments), generate


class Tile(NamedTuple):
    """Address of the micro-kernel's C function, rows and columns of its largest tile, and address of a zero."""

    address: int
    rows: int
    columns: int
    zero: int


def tile():
    """The Tile of float32 for the instruction set in use."""
    return _tile(PRODUCTS.index(Floats))


@functools.cache
def pairs_tile():
    """The Tile of pairs of bfloat16: its addresses, depth and strides are of elements of 4 bytes, too."""
    fast = isa() == "avx512" and has("avx512bf16")
    return _tile(PRODUCTS.index(Pairs if fast else WidenedPairs))


def columns_tile():
    """The Tile that multiplies column by column: elements of A are rows of float32."""
    return _tile(PRODUCTS.index(Columns))


@functools.cache
def _tile(product):
    """The Tile for the instruction set in use.

    The function takes any number of rows and cuts them into tiles of nearly the same height. While it computes it
    fetches other memory into L1: a line for each vector at the address `prefetch`, `prefetch_k` bytes further with
    every k and `prefetch_tile` bytes further with every tile.
    """
    lanes, rows, vectors = ISAS[isa()]

    @cfunc(types.void(*[types.intp] * ARGUMENTS), cache=True)
    def family(count, columns, depth, a, a_row, a_k, b, b_k, c, c_row, blocks, a_offsets, b_offsets, mode, bias,
               prefetch, prefetch_k, prefetch_tile):
        tiles = -(-count // rows)
        for t in range(tiles):
            i, end = count * t // tiles, count * (t + 1) // tiles
            _family(lanes, rows, vectors, product, (
                end - i, columns, depth, a + i * a_row, a_row, a_k, b, b_k, c + i * c_row, c_row, blocks, a_offsets,
                b_offsets, mode, bias, prefetch + t * prefetch_tile, prefetch_k))
            tick((end - i) * columns * depth * blocks // WORK)

    return Tile(family.address, rows, vectors * lanes, ZERO.ctypes.data)


@compiled.part()
def multiply(tile, rows, columns, depth, a, b, c, mode, prefetch):
    """C = A B for one block: a is (address, row stride, k stride), b (address, k stride), c (address, row stride).

    At most tile.columns columns; `prefetch` is (address, k stride, tile stride) of memory to fetch meanwhile.
    """
    call(tile.address, (rows, columns, depth, *a, *b, *c, 1, tile.zero, tile.zero, mode, 0, *prefetch))
