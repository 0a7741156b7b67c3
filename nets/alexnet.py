"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) as Caffe's reference model lays it out, and a narrow one."""

from nets.blocks import Dropout, Flatten, Loss, Lrn, MaxPool
from nets.composite import Sequence
from nets.layer import Conv, Dense
from nets.recipe import recipe


@recipe((227, 227, 3), 1000)
def alexnet(classes):
    """227x227 RGB, two groups as on two GPUs, Caffe's initial values; 60,965,224 parameters for 1000 classes."""
    return Sequence(
        Conv("conv1", 96, 11, stride=4, std=0.01), Lrn(), MaxPool(3, 2),
        Conv("conv2", 256, 5, padding=2, groups=2, std=0.01, bias=0.1), Lrn(), MaxPool(3, 2),
        Conv("conv3", 384, 3, padding=1, std=0.01),
        Conv("conv4", 384, 3, padding=1, groups=2, std=0.01, bias=0.1),
        Conv("conv5", 256, 3, padding=1, groups=2, std=0.01, bias=0.1), MaxPool(3, 2), Flatten(),
        Dense("fc6", 4096, std=0.005, bias=0.1), Dropout("drop6", 0.5),
        Dense("fc7", 4096, std=0.005, bias=0.1), Dropout("drop7", 0.5),
        Dense("fc8", classes, std=0.01, relu=False), Loss())


@recipe((32, 32, 3), 10)
def alexnet_mini(classes):
    """The same for images of 8x8 to 32x32: small windows, narrow layers."""
    return Sequence(
        Conv("conv1", 16, 3, padding=1), Lrn(), MaxPool(3, 2),
        Conv("conv2", 32, 3, padding=1, groups=2), Lrn(), MaxPool(3, 2),
        Conv("conv3", 64, 3, padding=1),
        Conv("conv4", 64, 3, padding=1, groups=2),
        Conv("conv5", 32, 3, padding=1, groups=2), MaxPool(3, 2), Flatten(),
        Dense("fc6", 128), Dropout("drop6", 0.2),
        Dense("fc7", 128), Dropout("drop7", 0.2),
        Dense("fc8", classes, relu=False), Loss())
