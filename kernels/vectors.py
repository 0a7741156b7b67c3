"""Vectors of floats as LLVM code, for the instruction set in use, and how a kernel calls what is made of them."""

from typing import NamedTuple

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels import env

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


class Bfloats(ir.VectorType):
    """A vector of so many bfloat16, for which llvmlite has no element type."""

    def __init__(self, count):
        super().__init__(ir.IntType(16), count)

    def _to_string(self):
        return f"<{self.count} x bfloat>"


class Isa(NamedTuple):
    """Floats in a vector, and the largest register tile: rows * vectors + vectors + 1 must fit the vector registers."""

    lanes: int
    rows: int
    vectors: int


ISAS = {"avx512": Isa(16, 14, 2), "avx2": Isa(8, 6, 2), "plain": Isa(4, 6, 2)}


def best():
    """The name of the best instruction set this processor has."""
    features = binding.get_host_cpu_features()
    return "avx512" if features.get("avx512f") else "avx2" if features.get("avx2") and features.get("fma") else "plain"


def has(feature):
    """Whether this processor has a feature, by LLVM's name."""
    return bool(binding.get_host_cpu_features().get(feature))


def isa():
    """The name of the instruction set in use: KERNELS_ISA, or the best. Raises ValueError for an unknown one."""
    name = env.get("KERNELS_ISA") or best()
    if name not in ISAS:
        raise ValueError(f"KERNELS_ISA={name}: choose one of {', '.join(ISAS)}")
    return name


def integer(value, kind=I64):
    """An LLVM constant."""
    return ir.Constant(kind, value)


class Vectors(ir.IRBuilder):
    """An IR builder that knows vectors of `lanes` floats; the last of a row may be cut to the columns asked for."""

    def __init__(self, block, lanes, vectors):
        super().__init__(block)
        self.lanes, self.last, self.mask = lanes, vectors - 1, None
        self.vector = ir.VectorType(F32, lanes)

    def cut(self, columns):
        """From here on the last vector of a row ends at `columns`."""
        numbers = ir.VectorType(I64, self.lanes)
        left = self.splat(self.sub(columns, integer(self.last * self.lanes)), numbers)
        self.mask = self.icmp_signed("<", ir.Constant(numbers, list(range(self.lanes))), left)

    def intrinsic(self, name, result, *arguments):
        """Call an LLVM intrinsic whose name ends with the vector's type where it contains a star."""
        kinds = ir.FunctionType(result, [a.type for a in arguments])
        full = name.replace("*", f"v{self.lanes}f32")
        return self.call(self.module.declare_intrinsic(full, (), kinds), arguments)

    def splat(self, scalar, kind=None):
        """The scalar in every lane."""
        empty = ir.Constant(kind or self.vector, ir.Undefined)
        one = self.insert_element(empty, scalar, integer(0, I32))
        return self.shuffle_vector(one, empty, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def zero(self):
        """A vector of zeros."""
        return ir.Constant(self.vector, [0.0] * self.lanes)

    def at(self, address, number, step):
        """Pointer to address + number * step."""
        number = integer(number) if isinstance(number, int) else number
        return self.inttoptr(self.add(address, self.mul(step, number)), ir.PointerType())

    def vector_at(self, address, j):
        """Pointer to the j-th vector of a row."""
        return self.at(address, j, integer(4 * self.lanes))

    def load_vector(self, address, j):
        """The j-th vector of the row at an address."""
        pointer = self.vector_at(address, j)
        if self.mask and j == self.last:
            align = integer(4, I32)
            return self.intrinsic("llvm.masked.load.*.p0", self.vector, pointer, align, self.mask, self.zero())
        return self.load(pointer, align=4, typ=self.vector)

    def store_vector(self, value, address, j, *, cut=True):
        """Write the j-th vector of the row at an address; the last of all is whole unless `cut`."""
        pointer = self.vector_at(address, j)
        if cut and self.mask and j == self.last:
            self.intrinsic("llvm.masked.store.*.p0", ir.VoidType(), value, pointer, integer(4, I32), self.mask)
        else:
            self.store(value, pointer, align=4)

    def shortened(self, value):
        """A vector as bfloat16's bits: the nearest, ties to even; NaN stays NaN."""
        words = ir.VectorType(I32, self.lanes)

        def all_lanes(number):
            return ir.Constant(words, [number] * self.lanes)

        bits = self.bitcast(value, words)
        high = self.lshr(bits, all_lanes(16))
        nearest = self.add(bits, self.add(all_lanes(0x7FFF), self.and_(high, all_lanes(1))))
        number = self.select(self.fcmp_unordered("uno", value, value), self.or_(high, all_lanes(0x40)),
                             self.lshr(nearest, all_lanes(16)))
        return self.trunc(number, ir.VectorType(ir.IntType(16), self.lanes))

    def store_short(self, short, address, j):
        """Write the j-th vector of the row at an address, of numbers of 16 bits."""
        pointer = self.at(address, j, integer(2 * self.lanes))
        if self.mask and j == self.last:
            self.intrinsic(f"llvm.masked.store.v{self.lanes}i16.p0", ir.VoidType(), short, pointer, integer(2, I32),
                           self.mask)
        else:
            self.store(short, pointer, align=2)

    def carried(self, kind, **sources):
        """A phi node; `sources` maps a block (by name) to the value that comes from there."""
        node = self.phi(kind)
        for name, value in sources.items():
            node.add_incoming(value, next(b for b in self.function.blocks if b.name == name))
        return node

    def floor(self, relu):
        """The vector that `clipped` takes: zeros if `relu`, else minus infinity."""
        return self.splat(self.select(relu, ir.Constant(F32, 0.0), ir.Constant(F32, float("-inf"))))

    def clipped(self, value, floor):
        """max(value, floor), where NaN stays NaN."""
        return self.select(self.fcmp_ordered("<", value, floor), floor, value)

    def flag(self, mode, bit):
        """Whether `mode` has that bit."""
        return self.icmp_signed("!=", self.and_(mode, integer(bit)), integer(0))


@intrinsic
def call(typing, address, arguments):
    """Call the C function at `address`; every argument is an address, a byte stride, a count or a flag."""
    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [I64] * arguments.count)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), cgutils.unpack_tuple(builder, values[1]))
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, arguments.count)), generate
