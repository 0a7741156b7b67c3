"""Exported nets against ONNX Runtime and PyTorch, which know nothing of our kernels."""

import runpy

import numpy as np
import pytest

import nets
from mpilayer.training.batch import Batch
from nets.blocks import AvgPool, Flatten, GlobalAvgPool, Loss, MaxPool
from nets.composite import Sequence
from nets.conv_norm import ConvNorm
from nets.layer import Conv, Dense
from nets.onnx_graph import onnx_model
from nets.state_dict import from_state_dict, heads, state_dict, take
from tests.test_examples import EXAMPLES

CLOSE = 1e-4  # of the largest logit
SIZES = {"alexnet": ((99, 99, 3), 5), "googlenet": ((64, 64, 3), 5), "resnet50": ((64, 64, 3), 5),
         "alexnet-mini": ((20, 20, 3), 5), "googlenet-mini": ((20, 20, 3), 5), "resnet-mini": ((20, 20, 3), 5),
         "transformer": ((24,), 31), "transformer-mini": ((24,), 31)}
SMALL = [name for name in SIZES if name.endswith("-mini")]


def scrambled(net, seed=0):
    """With running statistics, biases and scales that are not what they begin with."""
    rng = np.random.default_rng(seed)
    for name, array in net.arrays.items():
        part = name.rpartition("/")[2]
        if part == "running_var":
            array[:] = rng.uniform(0.5, 2, array.shape)
        elif part == "steps":
            array[:] = 7
        elif array.ndim == 1:
            array[:] += 0.1 * rng.standard_normal(array.shape)
    return net


def built(name):
    shape, classes = SIZES[name]
    return scrambled(nets.build(name, classes=classes, shape=shape))


def answers(net, size=2):
    """(x as PyTorch and ONNX have it, our logits)."""
    x, y = net.example(size, np.random.default_rng(1))
    for _ in net.forward(Batch(x, y, size, training=False)):
        pass
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x, net.logits.copy()


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()


MODERN = runpy.run_path(str(EXAMPLES / "modern_nets.py"))


def run_onnx(model, x):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": x})[0]


@pytest.mark.parametrize("name", SIZES)
def test_onnx_runtime_gives_the_same_logits(name):
    net = built(name)
    model = onnx_model(net, name)
    for size in (1, 3):
        x, expected = answers(net, size)
        assert_close(run_onnx(model, x), expected)


@pytest.mark.parametrize(("name", "sizes", "published"), [
    ("mobilenet", {}, 4_231_976), ("convnext", {"depth": 1, "width": 24}, None),
    ("mobilenet", {"width": 16}, None)])
def test_nets_of_depthwise_convolutions(name, sizes, published):
    net = scrambled(nets.build(MODERN[name], shape=(64, 64, 3), **sizes))
    assert net.size == (published or net.size)
    x, expected = answers(net)
    assert_close(run_onnx(onnx_model(net, name), x), expected)


def test_dilated_convolutions_in_groups():
    body = Sequence(Conv("conv", 6, 3, padding=2, dilation=2, groups=3, relu=False),
                    ConvNorm("norm", 8, 3, stride=2, padding=3, dilation=3, groups=2), Flatten(),
                    Dense("out", 4, relu=False), Loss())
    net = scrambled(nets.Net(body, (9, 10, 3)))
    x, expected = answers(net)
    assert_close(run_onnx(onnx_model(net, "dilated"), x), expected)


@pytest.mark.parametrize("pool", [MaxPool, AvgPool])
@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize("geometry", [(3, 2, 0, True), (3, 2, 1, True), (2, 2, 0, False), (3, 3, 1, False)])
def test_pooling_of_any_size_is_onnx_runtimes(pool, size, geometry):
    body = Sequence(Conv("conv", 3, 1), pool(*geometry), Flatten(), Dense("out", 4, relu=False), Loss())
    net = scrambled(nets.Net(body, (size, size + 1, 2)))
    x, expected = answers(net)
    assert_close(run_onnx(onnx_model(net, "pooling"), x), expected)


def test_a_block_that_onnx_does_not_know_is_named():
    class Own(GlobalAvgPool):
        pass

    class Strange:
        def build(self, shape):
            return shape

    net = nets.Net(Sequence(Conv("conv", 3, 1), Own(), Dense("out", 4, relu=False), Loss()), (4, 4, 1))
    onnx_model(net, "own")  # as what it is made from
    net.body.blocks = (Strange(), *net.body.blocks)
    with pytest.raises(ValueError, match="ONNX has no Strange"):
        onnx_model(net, "strange")


@pytest.mark.parametrize("name", SIZES)
def test_a_state_dict_comes_back_as_it_was(name):
    net, other = built(name), nets.build(name, classes=SIZES[name][1], shape=SIZES[name][0], seed=5)
    modules = nets.NETS[name].modules
    assert take(other, from_state_dict(other, state_dict(net, modules), modules)) == []
    for array, back in zip(net.arrays.values(), other.arrays.values(), strict=True):
        assert np.array_equal(array.astype(np.float32), back)  # running statistics are rounded


def torchvision_resnet50():
    """{name: shape} of torchvision's state dict, from He et al. 2016, table 1, with 1000 classes."""
    shapes = {}

    def norm(name, channels):
        shapes.update({f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    norm("bn1", 64)
    channels = 64
    for stage, (depth, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(depth):
            at = f"layer{stage + 1}.{block}"
            for number, shape in enumerate(((width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))):
                shapes[f"{at}.conv{number + 1}.weight"] = shape
                norm(f"{at}.bn{number + 1}", shape[0])
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * width, channels, 1, 1)
                norm(f"{at}.downsample.1", 4 * width)
            channels = 4 * width
    shapes["fc.weight"], shapes["fc.bias"] = (1000, 2048), (1000,)
    return shapes


def test_resnet50_has_torchvisions_names_and_shapes():
    net = nets.build("resnet50", shape=(64, 64, 3))
    found = state_dict(net, nets.NETS["resnet50"].modules)
    assert {name: array.shape for name, array in found.items()} == torchvision_resnet50()


def test_torchvisions_resnet50_gives_the_same_logits():
    torch, vision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    net, modules = built("resnet50"), nets.NETS["resnet50"].modules
    theirs = vision.models.resnet50(num_classes=5).eval()
    theirs.load_state_dict({name: torch.tensor(a) for name, a in state_dict(net, modules).items()})
    x, expected = answers(net)
    with torch.no_grad():
        assert_close(theirs(torch.from_numpy(x)).numpy(), expected)
    trained = vision.models.resnet50(num_classes=5).eval()  # and the other way round
    assert take(net, from_state_dict(net, {k: v.numpy() for k, v in trained.state_dict().items()}, modules)) == []
    with torch.no_grad():
        assert_close(answers(net)[1], trained(torch.from_numpy(x)).numpy())


def plain_alexnet_mini(nn, classes):
    """nets.alexnet_mini as somebody would write it in PyTorch."""
    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    def lrn():
        return nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)

    layers = {"conv1": nn.Conv2d(3, 16, 3, padding=1), "relu1": nn.ReLU(), "lrn1": lrn(), "pool1": pool(),
              "conv2": nn.Conv2d(16, 32, 3, padding=1, groups=2), "relu2": nn.ReLU(), "lrn2": lrn(), "pool2": pool(),
              "conv3": nn.Conv2d(32, 64, 3, padding=1), "relu3": nn.ReLU(),
              "conv4": nn.Conv2d(64, 64, 3, padding=1, groups=2), "relu4": nn.ReLU(),
              "conv5": nn.Conv2d(64, 32, 3, padding=1, groups=2), "relu5": nn.ReLU(), "pool5": pool(),
              "flat": nn.Flatten(), "fc6": nn.LazyLinear(128), "relu6": nn.ReLU(), "fc7": nn.Linear(128, 128),
              "relu7": nn.ReLU(), "fc8": nn.Linear(128, classes)}
    made = nn.Sequential()
    for name, layer in layers.items():
        made.add_module(name, layer)
    return made


def test_a_plain_pytorch_net_loads_it_and_gives_the_same_logits():
    torch = pytest.importorskip("torch")
    net = built("alexnet-mini")
    theirs, (x, expected) = plain_alexnet_mini(torch.nn, 5), answers(net)
    theirs(torch.zeros(1, 3, 20, 20))
    theirs.load_state_dict({name: torch.tensor(array) for name, array in state_dict(net).items()})
    with torch.no_grad():
        assert_close(theirs.eval()(torch.from_numpy(x)).numpy(), expected)


def test_other_classes_leave_the_heads_new():
    net, other = built("googlenet-mini"), nets.build("googlenet-mini", classes=8, shape=(20, 20, 3), seed=5)
    before = {name: array.copy() for name, array in other.arrays.items()}
    new = take(other, net.arrays)
    assert new == sorted(heads(other)) == ["aux1/fc2", "aux2/fc2", "classifier"]
    for name, array in other.arrays.items():
        assert np.array_equal(array, (before if name.rpartition("/")[0] in new else net.arrays)[name])


@pytest.mark.parametrize(("change", "message"), [
    (lambda found: found.pop("fc7.bias"), "fc7.bias: missing"),
    (lambda found: found.update(extra=np.zeros(1)), "extra: the net has no such array"),
    (lambda found: found.update({"conv2.weight": np.zeros((32, 8, 3, 1))}), r"conv2.weight: shape \(32, 8, 3, 1\)"),
    (lambda found: found.update({"fc8.weight": np.zeros((5, 64))}), "fc8/weight: shape"),
])
def test_what_does_not_fit_is_named(change, message):
    net = built("alexnet-mini")
    found, before = state_dict(net), net.weights.copy()
    change(found)
    with pytest.raises(nets.ShapeError, match=message):
        take(net, from_state_dict(net, found))
    assert np.array_equal(net.weights, before)
