"""What training does differently for a net on a GPU."""

from mpilayer.gpu.batch_feed import Feed
from mpilayer.gpu.staging import DeviceScalar
from mpilayer.gpu.trace import GpuTrace


class DeviceCompute:
    """As mpilayer.training.compute.HostCompute: this core is ahead of the GPU, and must not wait."""

    ahead, trace, scalar = 1, GpuTrace, DeviceScalar

    def __init__(self):
        self.put = Feed().put
