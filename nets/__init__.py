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
    """Make a Net.

    net         a key of NETS, such as "alexnet"; a Recipe; or a function blocks(classes, **sizes) that returns a block
    classes     number of classes, of a Transformer the size of the vocabulary; default: the published one
    shape       of a sample: (H,W,C) of images, (T,) of tokens; default: the published one
    seed        of the initial weights, which are the same on any device
    device      "cpu", or "gpu": the current one
    precision   on a GPU "float32", "tf32" (of products only) or "bfloat16" (of what flows from layer to layer)
    sizes       keyword arguments of the net's own: aux (googlenet: with auxiliary classifiers, default True); width,
                heads and depth (transformer)

    Raises ValueError for an unknown name, for samples that do not fit the net, if nothing tells their shape and
    classes, and for a precision that the device does not have.
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
