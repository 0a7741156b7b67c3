"""The wire on the GPU; an array of bfloat16's bits is one of bfloat16."""

from kernels.cuda import elementwise

REGISTERS = 64
BUILDS = [{"T": T, "VEC": vec} for T, vec in (("float", 4), ("float", 1), ("bfloat16", 8), ("bfloat16", 1))]


def encode_bfloat16(x, out):
    """Write out (n,), x rounded."""
    elementwise.launch("wire", "encode_bfloat16", (x, out), T="float")


def encode_with_feedback(x, out, error):
    """Write out (n,), x + error rounded, and error, what rounding lost."""
    elementwise.launch("wire", "encode_with_feedback", (x, out, error), T="float")


def decode_bfloat16(x, out):
    """Write out (n,), the numbers of x's bits."""
    elementwise.launch("wire", "decode_bfloat16", (x, out), T="float")


def ordered_sum(parts, out):
    """Write out (n,), the sum of the rows of parts (P,n)."""
    kind = "float" if out.dtype == "float32" else "bfloat16"
    elementwise.launch("wire", "ordered_sum", (out, parts), len(parts), T=kind)
