"""The wire on the GPU; an array of bfloat16's bits is one of bfloat16."""

from kernels.cuda import elementwise

REGISTERS = 64
BUILDS = [{"T": T, "VEC": vec} for T, vec in (("float", 4), ("float", 1), ("bfloat16", 8), ("bfloat16", 1))]


def encode_bfloat16(x, out):
    """Rounded, to out."""
    elementwise.launch("wire", "encode_bfloat16", (x, out), T="float")


def encode_with_feedback(x, out, error):
    """Rounded, with error added before; what is lost to error."""
    elementwise.launch("wire", "encode_with_feedback", (x, out, error), T="float")


def decode_bfloat16(x, out):
    """Widened, to out."""
    elementwise.launch("wire", "decode_bfloat16", (x, out), T="float")


def ordered_sum(parts, out):
    """The sum of the rows, to out."""
    kind = "float" if out.dtype == "float32" else "bfloat16"
    elementwise.launch("wire", "ordered_sum", (out, parts), len(parts), T=kind)
