"""A C function that kernels call from inside their loops: how a message moves on while a core computes.

Kernels say at every turn of their outer loops how much they have done; the clock is read when that adds up to about
a quarter of the interval asked for. The state is a symbol of its own, so that compiled kernels, cached or not, find
it in any process.
"""

import functools
import time

import numpy as np
from llvmlite import binding, ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)
SYMBOL = "mpilayer_kernels_progress"
DONE, ENOUGH, POLL, NEXT, BUSY, FUNCTION, ARGUMENT, EVERY, CLOCK = range(9)  # 64-bit words of the state
NEVER = 1 << 62

_state = np.zeros(9, np.int64)
_state[ENOUGH], _state[CLOCK] = NEVER, time.CLOCK_MONOTONIC
binding.add_symbol(SYMBOL, _state.ctypes.data)


def _word(builder, number):
    """LLVM pointer to a word of the state."""
    state = builder.module.globals.get(SYMBOL) or ir.GlobalVariable(builder.module, ir.ArrayType(I64, 9), SYMBOL)
    return builder.gep(state, [ir.Constant(I32, 0), ir.Constant(I32, number)])


@intrinsic
def tick(typing, work):
    """Say that so many nanoseconds of work, about, have been done since the last time: an addition, as a rule."""
    def generate(context, builder, signature, values):
        done = builder.add(builder.load(_word(builder, DONE)), values[0])
        builder.store(done, _word(builder, DONE))
        enough = builder.load(_word(builder, ENOUGH))
        with builder.if_then(builder.icmp_signed(">=", done, enough), likely=False):
            builder.store(ir.Constant(I64, 0), _word(builder, DONE))
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.inttoptr(builder.load(_word(builder, POLL)), kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def _load(typing, number):
    return types.intp(types.intp), lambda context, builder, signature, values: builder.load(
        builder.gep(_word(builder, 0), [values[0]]))


@intrinsic
def _store(typing, number, value):
    def generate(context, builder, signature, values):
        builder.store(values[1], builder.gep(_word(builder, 0), [values[0]]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def now(typing):
    """Nanoseconds of the monotonic clock."""
    def generate(context, builder, signature, values):
        kind = ir.FunctionType(I32, [I32, ir.ArrayType(I64, 2).as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        found = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))
        builder.call(function, [builder.trunc(builder.load(_word(builder, CLOCK)), I32), found])
        seconds, nanoseconds = (builder.load(builder.gep(found, [ir.Constant(I32, 0), ir.Constant(I32, part)]))
                                for part in (0, 1))
        return builder.add(builder.mul(seconds, ir.Constant(I64, 10**9)), nanoseconds)

    return types.intp(), generate


@intrinsic
def _enter(typing):
    """Take the flag BUSY; whether this thread was the first to."""
    def generate(context, builder, signature, values):
        before = builder.atomic_rmw("xchg", _word(builder, BUSY), ir.Constant(I64, 1), "acquire")
        return builder.icmp_signed("==", before, ir.Constant(I64, 0))

    return types.boolean(), generate


@intrinsic
def _call(typing, function, argument):
    def generate(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [I64])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@functools.cache
def _poll():
    """The C function behind a tick: it looks at the clock and calls the user's function when it is time."""
    @cfunc(types.void(), cache=True)
    def poll():
        moment = now()
        if moment >= _load(NEXT) and _enter():
            _store(NEXT, moment + _load(EVERY))
            _call(_load(FUNCTION), _load(ARGUMENT))
            _store(BUSY, 0)

    return poll


def set_progress(address, argument=0, every_us=50.0):
    """Let kernels call the C function `void f(void *)` at `address` with `argument`, about every `every_us`.

    An address of 0 ends that; `every_us` is in microseconds. Whichever thread computes calls, one at a time; the
    function must not call kernels, nor raise. Intervals are no shorter, and longer by a quarter and some 10
    microseconds. Raises ValueError for a negative address or an interval that is not positive.
    """
    if address < 0 or not every_us > 0:
        raise ValueError(f"set_progress: expected an address and a positive interval, got {address} and {every_us}")
    _state[ENOUGH] = NEVER
    if address:
        every = int(1000 * every_us)
        _state[FUNCTION], _state[ARGUMENT], _state[EVERY], _state[NEXT] = address, argument, every, 0
        _state[POLL], _state[ENOUGH] = _poll().address, every // 4
