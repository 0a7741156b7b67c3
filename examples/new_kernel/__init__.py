"""A kernel of your own: the activation function SiLU, y = x sigmoid(x) (Elfwing et al. 2018)."""

from examples.new_kernel import cpu
from kernels.arguments import array, output


def silu(x, out=None):
    """y = x / (1 + exp(-x)), for x float32 of any shape; into `out` if given. Raises ValueError for anything else."""
    x = array("silu", "x", x)
    y = output("silu", out, x.shape, like=x)
    cpu.silu(x.reshape(-1), y.reshape(-1))
    return y


def silu_backward(dy, x, out=None):
    """Gradient by x, from dy and x float32 of one shape; into `out` if given. Raises ValueError for anything else."""
    dy, x = array("silu_backward", "dy", dy), array("silu_backward", "x", x)
    dx = output("silu_backward", out, x.shape, like=x)
    cpu.silu_backward(dy.reshape(-1), x.reshape(-1), dx.reshape(-1))
    return dx
