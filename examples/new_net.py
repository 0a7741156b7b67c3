"""A net of your own: three convolutions, with a size that the command line can change.

    mpiexec -n 2 python -m mpilayer.train --net examples/new_net.py:small --width 24
"""

from nets import recipe
from nets.blocks import Flatten, Loss, MaxPool
from nets.composite import Sequence
from nets.layer import Conv, Dense


@recipe(width="channels of the first convolution")
def small(classes, width=16):
    """For images of any size from 8x8 on; shape and classes are those of the data."""
    return Sequence(
        Conv("conv1", width, 3, padding=1), MaxPool(2, 2),
        Conv("conv2", 2 * width, 3, padding=1), MaxPool(2, 2),
        Conv("conv3", 2 * width, 3, padding=1), Flatten(),
        Dense("classifier", classes, relu=False), Loss())
