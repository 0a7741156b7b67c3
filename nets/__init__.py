"""Neural networks as lists of blocks: `nets.build("alexnet", classes=1000)`."""

from nets.alexnet import alexnet, alexnet_mini
from nets.googlenet import googlenet, googlenet_mini
from nets.net import Net

# name: (list of blocks, default shape of an image, default number of classes)
NETS = {
    "alexnet": (alexnet, (227, 227, 3), 1000),
    "alexnet-mini": (alexnet_mini, (32, 32, 3), 10),
    "googlenet": (googlenet, (224, 224, 3), 1000),
    "googlenet-mini": (googlenet_mini, (32, 32, 3), 10),
}

__all__ = ["NETS", "Net", "build"]


def build(name, *, classes=None, shape=None, seed=0, **options):
    """A Net for `classes` and images of `shape` (H,W,C), by default the published ones, with weights drawn from `seed`.

    Options: `aux` (googlenet: with auxiliary classifiers, default True). Raises ValueError for an unknown name (the
    message lists the known ones), and for images too small for the net.
    """
    if name not in NETS:
        raise ValueError(f"unknown net {name!r}: choose one of {', '.join(NETS)}")
    blocks, default_shape, default_classes = NETS[name]
    return Net(blocks(classes or default_classes, **options), shape or default_shape, seed=seed)
