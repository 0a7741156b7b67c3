"""A net of your own, from the blocks of nets/:

    mpiexec -n 2 python -m mpilayer.train --net examples/new_net.py:plain --width 32
"""

from nets import recipe
from nets.blocks import GlobalAvgPool, Loss, MaxPool
from nets.composite import Sequence
from nets.layer import Conv, Dense


@recipe(shape=(32, 32, 3), classes=10, width="channels of the first convolution")
def plain(classes, width=16):
    """Three convolutions and a classifier; what each layer is called is up to you, but no two alike."""
    return Sequence(
        Conv("conv1", width, 3, padding=1), MaxPool(2, 2),
        Conv("conv2", 2 * width, 3, padding=1), MaxPool(2, 2),
        Conv("conv3", 4 * width, 3, padding=1), GlobalAvgPool(),
        Dense("classifier", classes, relu=False), Loss())
