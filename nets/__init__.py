"""Neural networks as lists of blocks: `nets.build("alexnet", classes=1000)`."""

from nets.alexnet import alexnet, alexnet_mini
from nets.googlenet import googlenet, googlenet_mini
from nets.memory import Memory
from nets.net import Net
from nets.recipe import Recipe, recipe, recipe_of
from nets.resnet import resnet50, resnet_mini
from nets.transformer import transformer, transformer_mini

NETS = {"alexnet": alexnet, "alexnet-mini": alexnet_mini, "googlenet": googlenet, "googlenet-mini": googlenet_mini,
        "resnet50": resnet50, "resnet-mini": resnet_mini, "transformer": transformer,
        "transformer-mini": transformer_mini}

__all__ = ["NETS", "Net", "Recipe", "build", "recipe", "recipe_of"]


def build(net, *, classes=None, shape=None, seed=0, device="cpu", precision="float32", **sizes):
    """A Net for `classes` and samples of `shape`, by default the published ones, with weights drawn from `seed`.

    `net` is a key of NETS, a Recipe, or a function blocks(classes, **sizes). The shape is (H,W,C) of images, or (T,),
    the context of a Transformer, whose classes are the vocabulary. `device`: cpu or gpu, the current one; `precision`
    there: float32, tf32 (products only) or bfloat16 (what flows from layer to layer). Sizes are the net's own: `aux`
    (googlenet: with auxiliary classifiers, default True); `width`, `heads`, `depth` (transformer). Raises ValueError
    for an unknown name (the message lists the known ones), for samples that do not fit the net, or that nothing tells
    the shape of, and for a precision that the device has not.
    """
    if isinstance(net, str) and net not in NETS:
        raise ValueError(f"unknown net {net!r}: choose one of {', '.join(NETS)}")
    made = NETS[net] if isinstance(net, str) else recipe_of(net)
    shape, classes = shape or made.shape, classes or made.classes
    if shape is None or classes is None:
        raise ValueError(f"expected the shape and classes of the samples: {made.blocks.__name__} has none of its own")
    body = made.blocks(classes, **sizes)
    if not hasattr(body, "build"):
        raise ValueError(f"{made.blocks.__name__} returned {body!r}: expected a block, such as nets.composite.Sequence")
    return Net(body, shape, Memory(device, precision), seed)
