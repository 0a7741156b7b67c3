"""The shapes convolution is tested and timed on: every distinct layer of the nets, and a few awkward ones."""

from typing import NamedTuple


class Case(NamedTuple):
    """One layer: net and name, an image of size x size x channels, filters of window x window."""

    net: str
    name: str
    size: int
    channels: int
    filters: int
    window: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    dilation: int = 1

    @property
    def out(self):
        """Rows (and columns) of the output."""
        return (self.size + 2 * self.padding - self.dilation * (self.window - 1) - 1) // self.stride + 1

    @property
    def options(self):
        """The keyword arguments of conv2d."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    def shapes(self, batch):
        """Shapes of x, w and y."""
        return ((batch, self.size, self.size, self.channels),
                (self.window, self.window, self.channels // self.groups, self.filters),
                (batch, self.out, self.out, self.filters))

    def flops(self, batch):
        """Multiplications and additions of any of the three passes."""
        return 2 * batch * self.out**2 * self.filters * self.window**2 * self.channels // self.groups


def _inception(name, size, channels, one, reduce3, three, reduce5, five, pooled):
    """The six convolutions of a block (table 1 of Szegedy et al. 2015)."""
    branches = [("1x1", channels, one, 1), ("3x3_reduce", channels, reduce3, 1), ("3x3", reduce3, three, 3),
                ("5x5_reduce", channels, reduce5, 1), ("5x5", reduce5, five, 5), ("pool", channels, pooled, 1)]
    for part, c, k, window in branches:
        yield Case("googlenet", f"{name}/{part}", size, c, k, window, padding=window // 2)


def _resnet50():
    """All convolutions (table 1 of He et al. 2015), the stride of a stage on its first 3x3, as torchvision's v1.5.

    The paper's own has it on the 1x1 before, and on the shortcut like this one.
    """
    yield Case("resnet50", "conv1", 224, 3, 64, 7, stride=2, padding=3)
    size, channels = 56, 64
    for stage, width, blocks in ((2, 64, 3), (3, 128, 4), (4, 256, 6), (5, 512, 3)):
        for block in "abcdef"[:blocks]:
            name, stride, wide = f"{stage}{block}", 2 if block == "a" and stage > 2 else 1, 4 * width
            yield Case("resnet50", f"{name}/1x1a", size, channels, width, 1)
            yield Case("resnet50", f"{name}/3x3", size, width, width, 3, stride, padding=1)
            yield Case("resnet50", f"{name}/1x1b", size // stride, width, wide, 1)
            if block == "a":
                yield Case("resnet50", f"{name}/shortcut", size, channels, wide, 1, stride)
            size, channels = size // stride, wide


def _depthwise(net, layers, window):
    """Of (pixels in a row, channels, stride)."""
    for size, channels, stride in layers:
        yield Case(net, f"{size}/{window}x{window}" + "/2" * (stride > 1), size, channels, channels, window, stride,
                   window // 2, channels)


# Table 1 of Howard et al. 2017, and ConvNeXt-T of Liu et al. 2022; below, 3x3 layers of DeepLabv3 (Chen et al. 2017)
# with output stride 8, of an image of 224 pixels.
MOBILENET = ((112, 32, 1), (112, 64, 2), (56, 128, 1), (56, 128, 2), (28, 256, 1), (28, 256, 2), (14, 512, 1),
             (14, 512, 2), (7, 1024, 1))
CONVNEXT = (56, 96, 1), (28, 192, 1), (14, 384, 1), (7, 768, 1)


def _distinct(cases):
    """Each shape once, under its first name."""
    return list({case[2:]: case for case in reversed(cases)}.values())[::-1]


CASES = _distinct([
    Case("alexnet", "conv1", 227, 3, 96, 11, stride=4),
    Case("alexnet", "conv2", 27, 96, 256, 5, padding=2, groups=2),
    Case("alexnet", "conv3", 13, 256, 384, 3, padding=1),
    Case("alexnet", "conv4", 13, 384, 384, 3, padding=1, groups=2),
    Case("alexnet", "conv5", 13, 384, 256, 3, padding=1, groups=2),
    Case("googlenet", "conv1", 224, 3, 64, 7, stride=2, padding=3),
    Case("googlenet", "conv2_reduce", 56, 64, 64, 1),
    Case("googlenet", "conv2", 56, 64, 192, 3, padding=1),
    *_inception("3a", 28, 192, 64, 96, 128, 16, 32, 32),
    *_inception("3b", 28, 256, 128, 128, 192, 32, 96, 64),
    *_inception("4a", 14, 480, 192, 96, 208, 16, 48, 64),
    *_inception("4b", 14, 512, 160, 112, 224, 24, 64, 64),
    *_inception("4c", 14, 512, 128, 128, 256, 24, 64, 64),
    *_inception("4d", 14, 512, 112, 144, 288, 32, 64, 64),
    *_inception("4e", 14, 528, 256, 160, 320, 32, 128, 128),
    *_inception("5a", 7, 832, 256, 160, 320, 32, 128, 128),
    *_inception("5b", 7, 832, 384, 192, 384, 48, 128, 128),
    *_resnet50(),
    *_depthwise("mobilenet", MOBILENET, 3),
    *_depthwise("convnext", CONVNEXT, 7),
    Case("deeplab", "4b/3x3", 28, 256, 256, 3, padding=2, dilation=2),
    Case("deeplab", "5b/3x3", 28, 512, 512, 3, padding=4, dilation=4),
    Case("deeplab", "aspp", 28, 2048, 256, 3, padding=12, dilation=12),
    Case("odd", "strided 1x1", 15, 7, 33, 1, stride=2),
    Case("odd", "stride over window", 11, 5, 6, 2, stride=3),
    Case("odd", "one pixel", 1, 1, 1, 1),
    Case("odd", "grouped", 9, 12, 18, 3, stride=2, padding=1, groups=6),
    Case("odd", "each channel", 9, 19, 19, 3, stride=2, padding=1, groups=19, dilation=2),
])
