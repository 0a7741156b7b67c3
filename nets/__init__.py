"""Neural networks as lists of blocks: `nets.build("alexnet", classes=1000)`."""

from nets.alexnet import alexnet, alexnet_mini
from nets.googlenet import googlenet, googlenet_mini
from nets.memory import Memory
from nets.net import Net
from nets.recipe import Recipe, recipe, recipe_of, whole
from nets.resnet import resnet50, resnet_mini
from nets.shapes import ShapeError
from nets.transformer import transformer, transformer_mini

NETS = {"alexnet": alexnet, "alexnet-mini": alexnet_mini, "googlenet": googlenet, "googlenet-mini": googlenet_mini,
        "resnet50": resnet50, "resnet-mini": resnet_mini, "transformer": transformer,
        "transformer-mini": transformer_mini}

__all__ = ["NETS", "Net", "Recipe", "ShapeError", "build", "recipe", "recipe_of"]


def build(net, *, classes=None, shape=None, seed=0, device="cpu", precision="float32", **sizes):
    """Make a Net.

    net         a key of NETS, such as "alexnet"; a Recipe; or a function blocks(classes, **sizes) that returns a block
    classes     number of classes, of a Transformer the size of the vocabulary; default: the published one
    shape       of a sample: (H,W,C) of images, (T,) of tokens; default: the published one
    seed        of the initial weights, which are the same on any device
    device      "cpu", or "gpu": the current one
    precision   "float32", "bfloat16" (of what flows from layer to layer), or on a GPU "tf32" (of products only)
    sizes       keyword arguments of the net's own: aux (googlenet: with auxiliary classifiers, default True); width,
                heads and depth (transformer)

    Raises ValueError for what it does not know or cannot use: a name, a size, classes that are no positive whole
    number, a device, a precision of the device; if nothing tells shape and classes; for two layers of one name; and
    ShapeError, which is a ValueError, for samples that do not fit the net.
    """
    if isinstance(net, str) and net not in NETS:
        raise ValueError(f"unknown net {net!r}: choose one of {', '.join(NETS)}")
    made = NETS[net] if isinstance(net, str) else recipe_of(net)
    name = net if isinstance(net, str) else made.blocks.__name__
    shape, classes = made.shape if shape is None else shape, made.classes if classes is None else classes
    if shape is None or classes is None:
        raise ValueError(f"expected the shape and classes of the samples: {name} has none of its own")
    if not (isinstance(shape, tuple | list) and len(shape) in (1, 3) and all(map(whole, shape))):
        raise ValueError(f"{name}: shape={shape!r}, expected (H,W,C) or (T,) of positive whole numbers")
    memory = Memory(device, precision)
    return Net(made.body(name, classes, sizes), shape, memory, seed)
