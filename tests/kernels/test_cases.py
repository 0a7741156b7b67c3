"""The shapes that kernels are tested and timed on are the published layers."""

from math import prod

from kernels.conv2d.cases import CASES as CONVOLUTIONS
from kernels.dense.cases import CASES as DENSE


def test_layers_of_alexnet():
    macs = {"conv1": 105_415_200, "conv2": 223_948_800, "conv3": 149_520_384, "conv4": 112_140_288, "conv5": 74_760_192}
    convolutions, dense = ([c for c in cases if c.net == "alexnet"] for cases in (CONVOLUTIONS, DENSE))
    assert {case.name: case.flops(1) for case in convolutions} == {name: 2 * count for name, count in macs.items()}
    assert sum(macs.values()) == 665_784_864
    assert sum(case.flops(3) for case in dense) == 3 * 2 * 58_621_952
    weights = sum(prod(case.shapes(1)[1]) + case.filters for case in convolutions + dense)
    assert (len(convolutions + dense), weights) == (8, 60_965_224)


# Szegedy et al. 2015, table 1: block, pixels, channels in, #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj, and
# millions of multiply-adds. Not those of 5a: the published 54 are not what its columns give, 51.
INCEPTION = """
3a 28 192  64  96 128 16  32  32 128
3b 28 256 128 128 192 32  96  64 304
4a 14 480 192  96 208 16  48  64  73
4b 14 512 160 112 224 24  64  64  88
4c 14 512 128 128 256 24  64  64 100
4d 14 512 112 144 288 32  64  64 119
4e 14 528 256 160 320 32 128 128 170
5a  7 832 256 160 320 32 128 128  51
5b  7 832 384 192 384 48 128 128  71
"""


def test_shapes_of_googlenet():
    table = {(224, 3, 64, 7, 2, 3, 1), (56, 64, 64, 1, 1, 0, 1), (56, 64, 192, 3, 1, 1, 1)}
    layers, channels = 3, 192
    for line in INCEPTION.split("\n")[1:-1]:
        size, given, one, reduce3, three, reduce5, five, pool, macs = map(int, line.split()[1:])
        assert given in (channels, 832)
        block = [(size, given, one, 1), (size, given, reduce3, 1), (size, reduce3, three, 3), (size, given, reduce5, 1),
                 (size, reduce5, five, 5), (size, given, pool, 1)]
        assert round(sum(size**2 * c * k * window**2 for _, c, k, window in block) / 1e6) in (macs, macs + 1)
        table |= {(*shape, 1, shape[3] // 2, 1) for shape in block}
        layers, channels = layers + 6, one + three + five + pool
    shapes = [case[2:-1] for case in CONVOLUTIONS if case.net == "googlenet"]
    assert set(shapes) == table
    assert (layers, len(shapes), channels) == (57, 49, 1024)
    assert {case[2:4] for case in DENSE if case.net == "googlenet"} == {(4 * 4 * 128, 1024), (1024, 1000)}


# He et al. 2015, table 1, 50 layers, strides as torchvision's v1.5: how often, pixels in, channels in, filters, window,
# stride.
RESNET50 = """
1 224    3   64 7 2
1  56   64   64 1 1
3  56   64   64 3 1
4  56   64  256 1 1
2  56  256   64 1 1
1  56  256  128 1 1
1  56  128  128 3 2
1  56  256  512 1 2
4  28  128  512 1 1
3  28  512  128 1 1
3  28  128  128 3 1
1  28  512  256 1 1
1  28  256  256 3 2
1  28  512 1024 1 2
6  14  256 1024 1 1
5  14 1024  256 1 1
5  14  256  256 3 1
1  14 1024  512 1 1
1  14  512  512 3 2
1  14 1024 2048 1 2
3   7  512 2048 1 1
2   7 2048  512 1 1
2   7  512  512 3 1
"""


def test_layers_of_resnet50():
    table = [tuple(map(int, line.split())) for line in RESNET50.split("\n")[1:-1]]
    macs = sum(count * (size // stride)**2 * c * k * window**2 for count, size, c, k, window, stride in table)
    weights = sum(count * (c * k * window**2 + 2 * k) for count, _, c, k, window, _ in table)  # 2k: batch normalization
    assert sum(count for count, *_ in table) == 53
    assert macs + 2048 * 1000 == 4_089_184_256  # 4.09 GMACs, as published with torchvision's weights
    assert weights + 2048 * 1000 + 1000 == 25_557_032
    shapes = [(*shape, shape[3] // 2, 1) for _, *shape in table]
    own = {case[2:-1] for case in CONVOLUTIONS if case.net == "resnet50"}
    assert own == set(shapes) - {case[2:-1] for case in CONVOLUTIONS if case.net == "googlenet"}
    assert (len(own), len(shapes)) == (21, 23)
    assert [case[2:4] for case in DENSE if case.net == "resnet50"] == [(2048, 1000)]
