"""Nets of depthwise convolutions, of one filter for each channel:

    mpiexec -n 2 python -m mpilayer.train --net examples/modern_nets.py:convnext --width 16 --stem 1
"""

from nets import recipe
from nets.blocks import Gelu, GlobalAvgPool, Loss
from nets.composite import Sequence, Skip
from nets.conv_norm import ConvNorm
from nets.layer import Conv, Dense, LayerNorm

WIDTHS = 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024
HALVED = 1, 3, 5, 11  # the blocks that begin with a stride


@recipe(shape=(224, 224, 3), classes=1000, width="channels of the first convolution")
def mobilenet(classes, width=32):
    """MobileNet (Howard et al. 2017): a depthwise convolution, then a 1x1."""
    blocks, channels = [ConvNorm("conv", width, 3, stride=2, padding=1)], width
    for number, wide in enumerate(WIDTHS):
        stride = 2 if number in HALVED else 1
        blocks.append(ConvNorm(f"{number}/depthwise", channels, 3, stride=stride, padding=1, groups=channels))
        channels = wide * width // 32
        blocks.append(ConvNorm(f"{number}/1x1", channels, 1))
    return Sequence(*blocks, GlobalAvgPool(), Dense("classifier", classes, relu=False), Loss())


@recipe(shape=(224, 224, 3), classes=1000, width="channels of the first stage",
        depth="blocks of a stage; the third has three times as many", stem="window and stride of the first layer")
def convnext(classes, width=96, depth=3, stem=4):
    """ConvNeXt (Liu et al. 2022) without scales of layers: a depthwise 7x7, then two dense layers for each pixel."""
    blocks = [Conv("stem", width, stem, stride=stem, relu=False), LayerNorm("stem/norm")]
    for stage, count in enumerate((depth, depth, 3 * depth, depth)):
        if stage > 0:
            blocks += [LayerNorm(f"{stage}/norm"), Conv(f"{stage}/half", 2 * width, 2, stride=2, relu=False)]
            width *= 2
        for number in range(count):
            name = f"{stage}{'abcdefghijklmnopqrstuvwxyz'[number]}"
            blocks.append(Skip(
                Conv(f"{name}/depthwise", width, 7, padding=3, groups=width, relu=False), LayerNorm(f"{name}/norm"),
                Dense(f"{name}/wide", 4 * width, relu=False), Gelu(), Dense(f"{name}/narrow", width, relu=False)))
    return Sequence(*blocks, GlobalAvgPool(), LayerNorm("norm"), Dense("classifier", classes, relu=False), Loss())
