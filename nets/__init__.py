"""Neural networks as lists of blocks: `nets.build("alexnet", classes=1000)`."""

from nets.alexnet import alexnet, alexnet_mini
from nets.googlenet import googlenet, googlenet_mini
from nets.memory import Memory
from nets.net import Net
from nets.resnet import resnet50, resnet_mini
from nets.transformer import transformer, transformer_mini

# name: (list of blocks, default shape of an image or number of tokens, default number of classes)
NETS = {
    "alexnet": (alexnet, (227, 227, 3), 1000),
    "alexnet-mini": (alexnet_mini, (32, 32, 3), 10),
    "googlenet": (googlenet, (224, 224, 3), 1000),
    "googlenet-mini": (googlenet_mini, (32, 32, 3), 10),
    "resnet50": (resnet50, (224, 224, 3), 1000),
    "resnet-mini": (resnet_mini, (32, 32, 3), 10),
    "transformer": (transformer, (256,), 256),
    "transformer-mini": (transformer_mini, (64,), 256),
}

__all__ = ["NETS", "Net", "build"]


def build(name, *, classes=None, shape=None, seed=0, device="cpu", precision="float32", **options):
    """A Net for `classes` and samples of `shape`, by default the published ones, with weights drawn from `seed`.

    The shape is (H,W,C) of images, or (T,), the context of a Transformer, whose classes are the vocabulary. `device`:
    cpu or gpu, the current one; `precision` there: float32, tf32 (products only) or bfloat16 (what flows from layer to
    layer). Options: `aux` (googlenet: with auxiliary classifiers, default True); `width`, `heads`, `depth`
    (transformer). Raises ValueError for an unknown name (the message lists the known ones), for samples that do not fit
    the net, and for a precision that the device has not.
    """
    if name not in NETS:
        raise ValueError(f"unknown net {name!r}: choose one of {', '.join(NETS)}")
    blocks, default_shape, default_classes = NETS[name]
    return Net(blocks(classes or default_classes, **options), shape or default_shape, Memory(device, precision), seed)
