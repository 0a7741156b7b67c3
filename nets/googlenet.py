"""GoogLeNet (Szegedy et al. 2015), with its two auxiliary classifiers, and a narrow one."""

from nets.blocks import AvgPool, Dropout, Flatten, GlobalAvgPool, Loss, Lrn, MaxPool
from nets.composite import Concat, Sequence, Side
from nets.layer import Conv, Dense
from nets.recipe import recipe

# channels: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, after the pool (table 1 of the paper)
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}
SIDE_WEIGHT = 0.3


def inception(name, narrow=1):
    """Four branches; `narrow` divides their channels."""
    one, reduce3, three, reduce5, five, pooled = (c // narrow for c in INCEPTION[name])
    return Concat(
        Conv(f"{name}/1x1", one, 1),
        Sequence(Conv(f"{name}/3x3_reduce", reduce3, 1), Conv(f"{name}/3x3", three, 3, padding=1)),
        Sequence(Conv(f"{name}/5x5_reduce", reduce5, 1), Conv(f"{name}/5x5", five, 5, padding=2)),
        Sequence(MaxPool(3, 1, padding=1), Conv(f"{name}/pool", pooled, 1)))


def side(name, classes, channels, width, *pool):
    """An auxiliary classifier."""
    return Side(*pool, Conv(f"{name}/conv", channels, 1), Flatten(), Dense(f"{name}/fc1", width),
                Dropout(f"{name}/drop", 0.7), Dense(f"{name}/fc2", classes, relu=False), Loss(SIDE_WEIGHT))


def _body(stem, classes, narrow, heads):
    head = iter(heads)
    stages = {name: inception(name, narrow) for name in INCEPTION}
    return Sequence(
        *stem, stages["3a"], stages["3b"], MaxPool(3, 2),
        stages["4a"], *next(head), stages["4b"], stages["4c"], stages["4d"], *next(head), stages["4e"], MaxPool(3, 2),
        stages["5a"], stages["5b"], GlobalAvgPool(), Dropout("drop", 0.4),
        Dense("classifier", classes, relu=False), Loss())


@recipe((224, 224, 3), 1000)
def googlenet(classes, aux=True):
    """224x224 RGB; for 1000 classes 6,998,552 parameters, 13,378,280 with the auxiliary classifiers."""
    stem = (Conv("conv1", 64, 7, stride=2, padding=3), MaxPool(3, 2), Lrn(),
            Conv("conv2_reduce", 64, 1), Conv("conv2", 192, 3, padding=1), Lrn(), MaxPool(3, 2))
    heads = [[side(name, classes, 128, 1024, AvgPool(5, 3))] if aux else [] for name in ("aux1", "aux2")]
    return _body(stem, classes, 1, heads)


@recipe((32, 32, 3), 10)
def googlenet_mini(classes, aux=True):
    """The same for images of 8x8 to 32x32: a stem that shrinks them less, an eighth of the channels."""
    stem = (Conv("conv1", 16, 3, padding=1), Lrn(), Conv("conv2_reduce", 16, 1), Conv("conv2", 24, 3, padding=1), Lrn(),
            MaxPool(3, 2))
    heads = [[side(name, classes, 16, 64)] if aux else [] for name in ("aux1", "aux2")]
    return _body(stem, classes, 8, heads)
