"""What compiled functions need of the processor and of C: calls by address, and words that several threads share."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)


def words_of(count):
    """The type of so many words."""
    return types.UniTuple(types.intp, count)


@intrinsic
def ask(typing, function, arguments):
    """The int that the C function at an address returns; every argument fits a 64-bit register."""
    def generate(context, builder, signature, values):
        kind = ir.FunctionType(I32, [I64] * arguments.count)
        result = builder.call(builder.inttoptr(values[0], kind.as_pointer()), cgutils.unpack_tuple(builder, values[1]))
        return builder.sext(result, I64)

    return types.intp(types.intp, words_of(arguments.count)), generate


@intrinsic
def swap(typing, address, value):
    """Store the value, return what was there; atomic."""
    def generate(context, builder, signature, values):
        return builder.atomic_rmw("xchg", builder.inttoptr(values[0], I64.as_pointer()), values[1], "seq_cst")

    return types.intp(types.intp, types.intp), generate


@intrinsic
def sleep(typing, microseconds):
    """Give the core to others for so long."""
    def generate(context, builder, signature, values):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, [I32]), "usleep")
        builder.call(function, [builder.trunc(values[0], I32)])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def yield_core(typing):
    """Give the core to whoever is ready to compute on it."""
    def generate(context, builder, signature, values):
        builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


SEMAPHORE_WORDS = 4  # of memory, at most


def _of_semaphore(name):
    """The intrinsic that calls a C function of an address; 0, or something else if it failed."""
    def generate(context, builder, signature, values):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, [I64]), name)
        return builder.sext(builder.call(function, [values[0]]), I64)

    return types.intp(types.intp), generate


@intrinsic
def await_semaphore(typing, address):
    """Sleep until a POSIX semaphore is positive, and lower it by one; 0 unless there are none on this system."""
    return _of_semaphore("sem_wait")


@intrinsic
def raise_semaphore(typing, address):
    """Raise a POSIX semaphore by one."""
    return _of_semaphore("sem_post")


@intrinsic
def store(typing, address, value):
    """Write a word; who sees it sees what was written before, too."""
    def generate(context, builder, signature, values):
        builder.store_atomic(values[1], builder.inttoptr(values[0], I64.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def load(typing, address):
    """Read a word that `store` has written, before anything that is read later."""
    def generate(context, builder, signature, values):
        return builder.load_atomic(builder.inttoptr(values[0], I64.as_pointer()), "acquire", 8)

    return types.intp(types.intp), generate


@intrinsic
def count(typing, address):
    """Add one to a word, return what was there; atomic."""
    def generate(context, builder, signature, values):
        address = builder.inttoptr(values[0], I64.as_pointer())
        return builder.atomic_rmw("add", address, I64(1), "seq_cst")

    return types.intp(types.intp), generate
