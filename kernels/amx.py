"""Register tiles of pairs of bfloat16 by AMX, the matrix unit of Intel's processors since 2023.

What micro.py says of a tile holds, but that pairs of a row of A follow each other in memory: 16 of them are a row of a
tile register, and 16 elements of a row of B are one, as they lie in a panel. Four registers hold 32 x 32 sums, two A,
two B; what exceeds a multiple of 16 pairs goes through copies filled up with zeros. (Intel, "Intel 64 and IA-32
Architectures Software Developer's Manual", volume 1, chapter 18.)

No processor with it was to be had: this is compiled for one, and tested with a model of the registers in place of the
instructions.
"""

import ctypes
import functools

from llvmlite import ir
from numba import carray, cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels import compiled
from kernels.bfloat16 import nearest
from kernels.micro import ACCUMULATE, ARGUMENTS, BFLOAT16, RELU, WORK, ZERO, Tile, pairs_tile
from kernels.progress import tick
from kernels.vectors import I64, has, isa

SIDE, ROW = 16, 64  # rows of a register, and elements of 4 bytes in a row; bytes of a row
BOTH = 2 * SIDE  # rows and columns of a tile
LEFT, RIGHT, SHAPES, BYTES = 4096, 6144, 8192, 8256  # places in the function's frame, where sums come first; its bytes
ROWS_AT, BYTES_AT = 48, 16  # places in the registers' shapes: of numbers of rows, of bytes of a row
ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18  # a system call, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
UPPER, LOWER, FIRST, SECOND = 4, 5, 6, 7  # registers of rows of A, and of columns of B; those of the sums are 0 to 3

inner = compiled.part()


@functools.cache
def usable():
    """Whether this processor has AMX, and Linux, which must be asked, lets this process use its registers."""
    return (isa() == "avx512" and has("amx-bf16") and has("avx512bf16")
            and ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0)


def _emit(name, registers):
    """What makes an instruction of constant numbers of registers, and then perhaps an address and a stride."""
    def generate(context, builder, signature, values):
        constants = [ir.IntType(8)(kind.literal_value) for kind in signature.args[:registers]]
        memory = values[registers:]
        memory = [builder.inttoptr(memory[0], ir.PointerType()), *memory[1:]] if memory else []
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in (*constants, *memory)])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), [*constants, *memory])
        return context.get_dummy_value()

    return generate


@intrinsic
def configure(typing, shapes):
    """Give all registers their shapes: 64 bytes at that address."""
    return types.void(shapes), _emit("ldtilecfg", 0)


@intrinsic(prefer_literal=True)
def clear(typing, register):
    """Zeros."""
    return types.void(register), _emit("tilezero", 1)


@intrinsic(prefer_literal=True)
def load(typing, register, address, stride):
    """From rows that lie `stride` bytes apart."""
    return types.void(register, address, stride), _emit("tileloadd64", 1)


@intrinsic(prefer_literal=True)
def multiply(typing, c, a, b):
    """C += A B."""
    return types.void(c, a, b), _emit("tdpbf16ps", 3)


@intrinsic(prefer_literal=True)
def store(typing, register, address, stride):
    """To rows that lie `stride` bytes apart."""
    return types.void(register, address, stride), _emit("tilestored64", 1)


@intrinsic
def release(typing):
    """The registers are not needed any more."""
    return types.void(), _emit("tilerelease", 0)


@intrinsic
def _frame(typing):
    """Address of BYTES bytes in this function's frame, where a cache line begins."""
    def generate(context, builder, signature, values):
        frame = cgutils.alloca_once(builder, ir.ArrayType(ir.IntType(8), BYTES))
        frame.align = ROW
        return builder.ptrtoint(frame, I64)

    return types.intp(), generate


def _pointer(kind):
    """A function for compiled code: an address as a pointer to numbers of that kind."""
    @intrinsic
    def pointer(typing, address):
        return types.CPointer(kind)(types.intp), lambda context, builder, signature, values: builder.inttoptr(
            values[0], ir.PointerType())

    return pointer


_floats, _shorts, _bytes, _words = map(_pointer, (types.float32, types.uint16, types.uint8, types.intp))


@inner
def _describe(frame, rows, columns):
    """The registers' shapes, for a tile of so many rows and columns; those it does not need have none."""
    shapes = carray(_bytes(frame + SHAPES), ROW)
    shapes[:] = 0
    shapes[0] = 1  # the palette with 8 registers
    for half in range(2):
        tall = min(SIDE, max(0, rows - half * SIDE))
        wide = min(SIDE, max(0, columns - half * SIDE))
        if tall > 0:
            for other in range(2):
                if columns > other * SIDE:
                    shapes[ROWS_AT + 2 * half + other] = tall
            shapes[ROWS_AT + UPPER + half], shapes[BYTES_AT + 2 * (UPPER + half)] = tall, ROW
        if wide > 0:
            for other in range(2):
                if rows > other * SIDE:
                    shapes[BYTES_AT + 2 * (2 * other + half)] = 4 * wide
            shapes[ROWS_AT + FIRST + half], shapes[BYTES_AT + 2 * (FIRST + half)] = SIDE, 4 * wide


@inner
def _fill(source, stride, rows, columns, frame, place, wide):
    """Copy rows x columns elements of 4 bytes to a place in the frame, (rows, wide); zeros make up what it lacks."""
    copy = carray(_floats(frame + place), 512)
    copy[:] = 0
    for i in range(rows):
        row = carray(_floats(source + i * stride), columns)
        for k in range(columns):
            copy[i * wide + k] = row[k]


@inner
def _finish(frame, rows, columns, c, c_row, mode, bias):
    """C, from the sums in the frame."""
    for i in range(rows):
        sums, target = carray(_floats(frame + i * 4 * BOTH), columns), c + i * c_row
        if mode & ACCUMULATE:
            before = carray(_floats(target), columns)
            for j in range(columns):
                sums[j] += before[j]
        elif bias:
            start = carray(_floats(bias), columns)
            for j in range(columns):
                sums[j] += start[j]
        if mode & RELU:
            for j in range(columns):
                sums[j] = 0 if sums[j] < 0 else sums[j]
        if mode & BFLOAT16:
            short = carray(_shorts(target), columns)
            for j in range(columns):
                short[j] = nearest(sums[j])
        else:
            whole = carray(_floats(target), columns)
            for j in range(columns):
                whole[j] = sums[j]


@inner
def _add(a, a_row, b, b_k, rows, columns):
    """Add the products of 16 pairs to the sums."""
    load(UPPER, a, a_row)
    load(FIRST, b, b_k)
    multiply(0, UPPER, FIRST)
    if columns > SIDE:
        load(SECOND, b + ROW, b_k)
        multiply(1, UPPER, SECOND)
    if rows > SIDE:
        load(LOWER, a + SIDE * a_row, a_row)
        multiply(2, LOWER, FIRST)
        if columns > SIDE:
            multiply(3, LOWER, SECOND)


@inner
def _block(frame, rows, columns, depth, a, a_row, b, b_k):
    """Add the products of one block."""
    for k in range(0, depth, SIDE):
        left, right, rest = a + 4 * k, b + k * b_k, min(SIDE, depth - k)
        if rest == SIDE:
            _add(left, a_row, right, b_k, rows, columns)
        else:
            _fill(left, a_row, rows, rest, frame, LEFT, SIDE)
            _fill(right, b_k, rest, columns, frame, RIGHT, BOTH)
            _add(frame + LEFT, ROW, frame + RIGHT, 4 * BOTH, rows, columns)


@inner
def _store_sums(frame, rows, columns):
    store(0, frame, 4 * BOTH)
    if columns > SIDE:
        store(1, frame + ROW, 4 * BOTH)
    if rows > SIDE:
        store(2, frame + SIDE * 4 * BOTH, 4 * BOTH)
        if columns > SIDE:
            store(3, frame + SIDE * 4 * BOTH + ROW, 4 * BOTH)


@inner
def _clear_sums(rows, columns):
    clear(0)
    if columns > SIDE:
        clear(1)
    if rows > SIDE:
        clear(2)
        if columns > SIDE:
            clear(3)


@functools.cache
def amx_tile():
    """The Tile; its function takes what micro.py's does, prefetches nothing, and reads of a_k only that it is 4."""
    @cfunc(types.void(*[types.intp] * ARGUMENTS), cache=True)
    def tiles(count, columns, depth, a, a_row, a_k, b, b_k, c, c_row, blocks, a_offsets, b_offsets, mode, bias,
              prefetch, prefetch_k, prefetch_tile):
        frame, left, right = _frame(), carray(_words(a_offsets), blocks), carray(_words(b_offsets), blocks)
        for i in range(0, count, BOTH):
            rows = min(BOTH, count - i)
            _describe(frame, rows, columns)
            configure(frame + SHAPES)
            _clear_sums(rows, columns)
            for t in range(blocks):
                _block(frame, rows, columns, depth, a + i * a_row + left[t], a_row, b + right[t], b_k)
            _store_sums(frame, rows, columns)
            release()
            _finish(frame, rows, columns, c + i * c_row, c_row, mode, bias)
            tick(rows * columns * depth * blocks // WORK)

    return Tile(tiles.address, BOTH, BOTH, ZERO.ctypes.data)


def pairs_in_rows_tile():
    """The Tile for pairs that lie next to each other in rows of A: of AMX, or of vectors."""
    return amx_tile() if usable() else pairs_tile()
