"""The wire in Numba: bfloat16, sums in rank order, and both as C functions for MPI.

Sums go block by block through float32 on the stack, so that memory is read once whatever the number of parts. The C
functions neither allocate, lock nor tick: MPI's progress calls them from inside kernels.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels import compiled
from kernels.bfloat16 import INFINITY, narrow, nearest, widen
from kernels.progress import tick
from kernels.threads import parallel_for

BLOCK = 2048

jit, inner = compiled.decorators()


@intrinsic
def _stack(typing):
    """Pointer to BLOCK float32 in this function's frame."""
    def generate(context, builder, signature, values):
        frame = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), BLOCK))
        return builder.bitcast(frame, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(), generate


@inner
def _encode_block(x, out):
    for i in range(x.size):
        out[i] = nearest(x[i])


@inner
def _feedback_block(x, out, error):
    for i in range(x.size):
        value = x[i] + error[i]
        sent = nearest(value)
        out[i] = sent
        error[i] = np.float32(0) if sent & INFINITY == INFINITY else value - widen(sent)


@inner
def _decode_block(x, out):
    for i in range(x.size):
        out[i] = widen(x[i])


@jit
def _encode(x, out):
    for start in range(0, x.size, BLOCK):
        end = start + BLOCK
        _encode_block(x[start:end], out[start:end])
        tick(BLOCK)


@jit
def _feedback(x, out, error):
    for start in range(0, x.size, BLOCK):
        end = start + BLOCK
        _feedback_block(x[start:end], out[start:end], error[start:end])
        tick(BLOCK)


@jit
def _decode(x, out):
    for start in range(0, x.size, BLOCK):
        end = start + BLOCK
        _decode_block(x[start:end], out[start:end])
        tick(BLOCK)


@inner
def _sum_block(parts, start, out):
    """out = the sum over p of parts[p, start:start + out.size], of at most BLOCK numbers."""
    total = carray(_stack(), BLOCK)
    for p in range(parts.shape[0]):
        part = parts[p][start:start + out.size]
        if p == 0:
            for i in range(out.size):
                total[i] = widen(part[i])
        else:
            for i in range(out.size):
                total[i] += widen(part[i])
    for i in range(out.size):
        out[i] = narrow(total[i], out)


@jit
def _ordered_sum(parts, out, begin, end):
    for start in range(begin, end, BLOCK):
        _sum_block(parts, start, out[start:min(start + BLOCK, end)])
        tick(parts.shape[0] * BLOCK)


def encode_bfloat16(x, out):
    """Write out (n,), x rounded."""
    parallel_for(x.size, lambda a, b: _encode(x[a:b], out[a:b]))


def encode_with_feedback(x, out, error):
    """Write out (n,), x + error rounded, and error, what rounding lost."""
    parallel_for(x.size, lambda a, b: _feedback(x[a:b], out[a:b], error[a:b]))


def decode_bfloat16(x, out):
    """Write out (n,), the numbers of x's bits."""
    parallel_for(x.size, lambda a, b: _decode(x[a:b], out[a:b]))


def ordered_sum(parts, out):
    """Write out (n,), the sum of the rows of parts (P,n)."""
    parallel_for(out.size, lambda a, b: _ordered_sum(parts, out, a, b))


@functools.cache
def _sum_function(dtype):
    kind = from_dtype(dtype)
    shift = kind.bitwidth // 16

    @cfunc(types.void(types.CPointer(kind), *[types.int64] * 3, types.CPointer(kind), types.int64), cache=True)
    def total(parts, P, n, stride, out, copies):
        rows, into = carray(parts, (P, stride >> shift)), carray(out, (copies, stride >> shift))
        for start in range(0, n, BLOCK):
            end = min(start + BLOCK, n)
            first = into[0, start:end]
            _sum_block(rows, start, first)
            for copy in range(1, copies):
                other = into[copy, start:end]
                for i in range(first.size):
                    other[i] = first[i]

    return total


@functools.cache
def _bfloat16_op():
    number, count = types.CPointer(types.uint16), types.CPointer(types.int32)

    @cfunc(types.void(number, number, count, types.voidptr), cache=True)
    def add(source, target, length, datatype):
        x, y = carray(source, (length[0],)), carray(target, (length[0],))
        for i in range(x.size):
            y[i] = nearest(widen(x[i]) + widen(y[i]))

    return add


def ordered_sum_address(dtype):
    """Address of `void f(parts, P, n, stride, out, copies)`, as kernels.ordered_sum_address says."""
    return _sum_function(dtype).address


def bfloat16_op_address():
    """Address of the MPI_User_function."""
    return _bfloat16_op().address
