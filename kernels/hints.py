"""What the compiler and the processor cannot know."""

from llvmlite import ir
from numba import types
from numba.core import imputils
from numba.extending import intrinsic


def _opaque(module, name, result, argument):
    """A function that does nothing, which the compiler may not find out: what it knows are the attributes."""
    name += "." + "".join(c for c in str(argument) if c.isalnum())
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(result, [argument]), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret_void() if result == ir.VoidType() else builder.ret(function.args[0])
    return function


@intrinsic
def restrict(typing, array):
    """The array, promised to share no memory with any other that the function uses (C's `restrict`).

    Loops that write to it become vector code without a test of every pair of addresses each time one begins.
    """
    def generate(context, builder, signature, values):
        view = context.make_array(array)(context, builder, values[0])
        kind = view.data.type
        alone = _opaque(builder.module, "restrict", kind, kind)
        alone.return_value.add_attribute("noalias")
        view.data = builder.call(alone, [view.data])
        # Memory that nobody else can know need not be written at all: so somebody must.
        builder.call(_opaque(builder.module, "tell", ir.VoidType(), kind), [view.data])
        return imputils.impl_ret_borrowed(context, builder, signature.return_type, view._getvalue())

    return array(array), generate


@intrinsic
def adjacent(typing, row):
    """The array (n,), promised to have its elements next to each other: of a part of a matrix nothing else says so, and
    loops would not become vector code.
    """
    kind = row.copy(layout="C")
    return kind(row), lambda context, builder, signature, values: imputils.impl_ret_borrowed(
        context, builder, kind, values[0])


@intrinsic
def prefetch(typing, array, i):
    """Have the cache line with element i of a flat array fetched, which may lie beyond its end."""
    def generate(context, builder, signature, values):
        data = context.make_array(array)(context, builder, values[0]).data
        pointer = builder.bitcast(builder.gep(data, [values[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch.p0", (), kind)
        builder.call(function, [pointer, number(0), number(2), number(1)])  # to read, into L2, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate
