"""Where a net computes: what training does differently for that."""

from kernels import gpu
from mpilayer.base.tracing import Trace


class HostCompute:
    """On this core. `ahead`: steps that it may be behind what was asked for."""

    ahead, trace = 0, Trace

    @staticmethod
    def put(*arrays):
        """The arrays of a batch where the net takes them."""
        return arrays

    @staticmethod
    def scalar(number):
        """A number that the net has computed, to be read later."""
        return number


def compute_of(net):
    """HostCompute, or what a net on a GPU needs."""
    if not gpu.is_array(net.weights):
        return HostCompute()
    from mpilayer.gpu.compute import DeviceCompute

    return DeviceCompute()
