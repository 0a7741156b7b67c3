"""ResNet (He et al. 2016): 50 layers for 224x224, its stride in the 3x3 as in version 1.5, and 20 for 32x32."""

from nets.blocks import GlobalAvgPool, Loss, MaxPool
from nets.composite import Residual, Sequence
from nets.conv_norm import ConvNorm
from nets.layer import Dense
from nets.recipe import recipe


def _shortcut(name, channels, stride, changes):
    """A 1x1 convolution where the shape changes, else x itself."""
    return ConvNorm(f"{name}/shortcut", channels, 1, stride=stride, relu=False) if changes else None


def bottleneck(name, channels, stride, changes):
    """1x1, 3x3, 1x1 to four times the channels."""
    return Residual(
        ConvNorm(f"{name}/1x1a", channels, 1),
        ConvNorm(f"{name}/3x3", channels, 3, stride=stride, padding=1),
        ConvNorm(f"{name}/1x1b", 4 * channels, 1), shortcut=_shortcut(name, 4 * channels, stride, changes))


def basic(name, channels, stride, changes):
    """Two 3x3."""
    return Residual(
        ConvNorm(f"{name}/3x3a", channels, 3, stride=stride, padding=1),
        ConvNorm(f"{name}/3x3b", channels, 3, padding=1), shortcut=_shortcut(name, channels, stride, changes))


def _stages(block, depths, widths, first_changes):
    """Blocks of each stage; the first of a stage has its stride, and a shortcut where the shape changes."""
    for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            opens = i == 0 and (number > 0 or first_changes)
            yield block(f"{number + 2}{'abcdef'[i]}", width, 2 if opens and number > 0 else 1, opens)


def modules(name):
    """Of a layer, torchvision's names: of its convolution or dense layer, and of its batch normalization."""
    if name in ("conv1", "classifier"):
        return {"conv1": ("conv1", "bn1"), "classifier": ("fc", None)}[name]
    (stage, letter), part = name.split("/")
    where = f"layer{int(stage) - 1}.{'abcdef'.index(letter)}"
    if part == "shortcut":
        return f"{where}.downsample.0", f"{where}.downsample.1"
    number = {"1x1a": 1, "3x3": 2, "1x1b": 3}[part]
    return f"{where}.conv{number}", f"{where}.bn{number}"


@recipe((224, 224, 3), 1000)
def resnet50(classes):
    """224x224 RGB; 25,557,032 parameters for 1000 classes."""
    return Sequence(
        ConvNorm("conv1", 64, 7, stride=2, padding=3), MaxPool(3, 2, padding=1, ceil_mode=False),
        *_stages(bottleneck, (3, 4, 6, 3), (64, 128, 256, 512), first_changes=True),
        GlobalAvgPool(), Dense("classifier", classes, relu=False), Loss())


resnet50 = resnet50._replace(modules=modules)


@recipe((32, 32, 3), 10)
def resnet_mini(classes):
    """ResNet-20 for 32x32, with shortcuts that are convolutions where the shape changes."""
    return Sequence(
        ConvNorm("conv1", 16, 3, padding=1), *_stages(basic, (3, 3, 3), (16, 32, 64), first_changes=False),
        GlobalAvgPool(), Dense("classifier", classes, relu=False), Loss())
