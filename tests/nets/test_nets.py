import sys

import numpy as np
import pytest

import nets
from mpilayer.training.batch import Batch
from nets.blocks import Flatten, GlobalAvgPool, Loss, MaxPool
from nets.composite import Concat, Residual, Sequence
from nets.conv_norm import ConvNorm
from nets.layer import Conv, Dense


@pytest.mark.parametrize(("name", "options", "published"), [
    ("alexnet", {}, 60_965_224),
    ("googlenet", {}, 13_378_280),
    ("googlenet", {"aux": False}, 6_998_552),
    ("resnet50", {}, 25_557_032),
    ("resnet-mini", {}, 272_474),  # He et al. say 0.27 million
    ("transformer", {}, 4_935_680),
    ("transformer", {"width": 768, "heads": 12, "depth": 12, "classes": 50257, "shape": (1024,)}, 163_037_184),
])
def test_parameter_counts_are_the_published_ones(name, options, published):
    net = nets.build(name, **options)
    assert net.size == sum(layer.w.size for layer in net.layers) == published


def batch(net, size=4, training=True, seed=5):
    return Batch(*net.example(size, np.random.default_rng(seed)), size, training=training)


MINIS = ["alexnet-mini", "googlenet-mini", "resnet-mini", "transformer-mini"]


def build(name, shape=None):
    return nets.build(name, classes=10, shape=shape or ((12,) if name == "transformer-mini" else (8, 8, 1)), seed=1)


@pytest.mark.parametrize(("name", "shape"), [
    *((name, shape) for name in MINIS[:3] for shape in ((8, 8, 1), (28, 28, 1), (32, 32, 3))),
    ("transformer-mini", (1,)), ("transformer-mini", (12,))])
def test_forward_yields_each_layer_once_and_backward_in_memory_order(name, shape):
    net = build(name, shape)
    forward, backward = list(net.forward(batch(net))), list(net.backward())
    assert forward == net.layers
    assert backward == net.backward_layers
    for layer in backward:
        assert np.shares_memory(layer.w, net.weights)
        assert np.shares_memory(layer.g, net.gradients[0])
    addresses = [layer.w.ctypes.data for layer in backward]
    assert addresses == sorted(addresses)


@pytest.mark.parametrize("name", MINIS)
def test_a_gradient_is_final_when_its_layer_is_yielded(name):
    net = build(name)
    for _ in net.forward(batch(net)):
        pass
    seen = [(layer, layer.g.copy()) for layer in net.backward()]
    for layer, gradient in seen:
        np.testing.assert_array_equal(gradient, layer.g, err_msg=layer.name)


@pytest.mark.parametrize("name", MINIS)
def test_weights_are_not_read_before_their_layer_is_yielded(name):
    net, sample = build(name), None
    sample = batch(net, training=True)
    for _ in net.forward(sample):
        pass
    expected, weights = net.logits.copy(), net.weights.copy()
    net.weights[:] = np.nan
    for layer in net.forward(sample):
        layer.w[:] = weights[(layer.w.ctypes.data - net.weights.ctypes.data) // 4:][:layer.size]
    np.testing.assert_array_equal(net.logits, expected)


def total_loss(net, sample):
    for _ in net.forward(sample):
        pass
    return net.loss


@pytest.mark.parametrize("name", MINIS)
def test_gradient_is_the_slope_of_the_loss(name):
    """Along the gradient itself; float32, so the step is large and the tolerance follows."""
    net = build(name)
    sample = batch(net, 8)
    total_loss(net, sample)
    for _ in net.backward():
        pass
    gradient, weights = net.gradients[0].copy(), net.weights.copy()
    direction = gradient / np.linalg.norm(gradient)
    step = 1e-3
    slopes = []
    for sign in (1, -1):
        net.weights[:] = weights + sign * step * direction
        slopes.append(total_loss(net, sample))
    measured = (slopes[0] - slopes[1]) / (2 * step)
    assert measured == pytest.approx(np.linalg.norm(gradient), rel=0.02)


def test_dropout_masks_do_not_depend_on_how_a_batch_is_cut():
    net = build("alexnet-mini")
    whole = batch(net, 6)
    total_loss(net, whole)
    expected = net.logits.copy()
    parts = []
    for part in (slice(0, 2), slice(2, 6)):
        total_loss(net, Batch(whole.x[part], whole.y[part], 6, first=part.start))
        parts.append(net.logits)
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-5, atol=1e-6)


def test_auxiliary_heads_count_in_training_only():
    net = build("googlenet-mini")
    sample = batch(net)
    total = total_loss(net, sample)
    assert total == pytest.approx(sum(loss.loss for loss in net.losses))
    assert [loss.weight for loss in net.losses] == [0.3, 0.3, 1.0]
    read = [layer.name for layer in net.forward(batch(net, training=False))]
    assert not any(name.startswith("aux") for name in read)


def test_first_not_finite_names_the_layer():
    net = build("alexnet-mini")
    total_loss(net, batch(net))
    assert net.first_not_finite() is None
    net.layers[2].w[3] = np.nan
    layer, what = net.first_not_finite()
    assert (layer.name, what) == ("conv3", "weights")


def test_unknown_net_lists_the_choices_and_small_images_are_refused():
    with pytest.raises(ValueError, match="unknown net 'vgg': choose one of alexnet, alexnet-mini, googlenet"):
        nets.build("vgg")
    with pytest.raises(ValueError, match="does not fit an input of 8x8"):
        nets.build("alexnet", shape=(8, 8, 3))


def test_two_layers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two layers are called 'dense'"):
        nets.build(lambda classes: Sequence(Flatten(), Dense("dense", 13), Dense("dense", classes, relu=False), Loss()),
                   shape=(4, 4, 1), classes=10)


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("alexnet", {"width": 3}, r"alexnet: got an unexpected keyword argument 'width' \(its sizes: none\)"),
    ("transformer", {"width": 64, "headz": 2}, r"'headz' \(its sizes: width, heads, depth\)"),
    ("transformer-mini", {"heads": 0}, "transformer-mini: heads=0, expected a whole number, at least 1"),
    ("transformer-mini", {"width": 6.5}, "width=6.5, expected a whole number, at least 1"),
    ("transformer-mini", {"depth": True}, "depth=True, expected a whole number, at least 1"),
    ("alexnet-mini", {"classes": -1}, "classes=-1, expected a whole number, at least 1"),
    ("alexnet-mini", {"classes": 0}, "classes=0, expected a whole number, at least 1"),
    ("alexnet-mini", {"shape": (0, 8, 1)}, r"shape=\(0, 8, 1\), expected \(H,W,C\) or \(T,\)"),
    ("alexnet-mini", {"shape": 8}, r"shape=8, expected \(H,W,C\) or \(T,\)"),
    ("alexnet-mini", {"shape": (64,)}, r"conv1: expected a shape \(H,W,C\), got \(64,\)"),
    ("resnet-mini", {"shape": (64,)}, r"conv1: expected a shape \(H,W,C\), got \(64,\)"),
    ("transformer-mini", {"shape": (8, 8, 3)}, r"embedding: expected a shape \(T\), got \(8, 8, 3\)"),
    ("alexnet-mini", {"precision": "tf32"}, "no net computes on 'cpu' in 'tf32'"),
])
def test_arguments_that_do_not_fit(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        nets.build(name, **arguments)


def test_a_size_may_be_its_default_whatever_that_is():
    def body(classes, more=0, **others):
        return Sequence(Flatten(), Dense("last", classes + more, relu=False), Loss())

    for sizes in ({}, {"more": 0}, {"more": 2, "name": "a"}):
        assert nets.build(body, shape=(2, 2, 1), classes=3, **sizes).size == 5 * (3 + sizes.get("more", 0))
    with pytest.raises(ValueError, match="body: more=-1, expected a whole number, at least 0"):
        nets.build(body, shape=(2, 2, 1), classes=3, more=-1)


def test_a_function_that_takes_no_classes_is_refused():
    with pytest.raises(ValueError, match="too many positional arguments"):
        nets.build(lambda: None, shape=(8, 8, 1), classes=10)


def test_a_gpu_without_cupy_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ValueError, match="'gpu' cannot be used: CuPy cannot be imported"):
        nets.build("alexnet-mini", device="gpu")


@pytest.mark.parametrize("first", [MaxPool(2, 2), GlobalAvgPool(), Conv("conv", 3, 1), ConvNorm("conv", 3, 1)])
def test_blocks_of_images_say_that_tokens_do_not_fit(first):
    with pytest.raises(nets.ShapeError, match=r"expected a shape \(H,W,C\), got \(12,\)"):
        nets.build(lambda classes: Sequence(first, Loss()), shape=(12,), classes=3)


def evaluate(net, sample):
    total_loss(net, Batch(sample.x, sample.y, sample.size, training=False))
    return net.logits


@pytest.mark.parametrize(("layer", "message"), [
    (Conv("conv", 6, 3, groups=4), "conv: 4 groups cannot share out 6 channels that come in and 6 that go out"),
    (ConvNorm("conv", 8, 1, groups=3), "conv: 3 groups cannot share out 6 channels that come in and 8 that go out"),
    (Conv("conv", 6, 3, dilation=3), "conv: its 3x3 window, with a dilation of 3, does not fit an input of 6x6")])
def test_convolutions_that_cannot_be_say_so_before_training(layer, message):
    with pytest.raises(nets.ShapeError, match=f"^{message}$"):
        layer.build((6, 6, 6))


def test_running_statistics_are_those_of_the_steps_so_far_at_first():
    """After one step they are that batch's, the variance by one less: evaluation of a large batch equals training."""
    net = build("resnet-mini", (16, 16, 1))
    sample = batch(net, 64)
    total_loss(net, sample)
    trained = net.logits.copy()
    np.testing.assert_allclose(evaluate(net, sample), trained, rtol=0.05, atol=0.05)
    assert net.layers[0].state[0] == 1


def test_running_statistics_follow_a_tenth_at_a_time():
    net = build("resnet-mini")
    first = net.layers[0]
    for t in range(30):
        total_loss(net, batch(net, seed=t))
    before = first.state.copy()
    total_loss(net, sample := batch(net, seed=99))
    rows = first.convolved.reshape(-1, first.channels).astype(np.float64)
    want = 0.9 * before[1:] + 0.1 * np.concatenate([rows.mean(0), rows.var(0, ddof=1)])
    np.testing.assert_allclose(first.state[1:], want, rtol=1e-5, atol=1e-6)
    evaluate(net, sample)
    assert first.state[0] == 31


def test_a_transformer_does_not_look_ahead():
    net = build("transformer-mini")
    sample = batch(net, 2)
    logits = evaluate(net, sample).copy()
    sample.x[:, 7:] = (sample.x[:, 7:] + 1) % 10
    np.testing.assert_array_equal(evaluate(net, sample)[:, :7], logits[:, :7])
    assert not np.array_equal(evaluate(net, sample)[:, 7:], logits[:, 7:])


def test_smoothing_counts_in_training_only():
    net = build("alexnet-mini")
    sample = batch(net)
    plain = total_loss(net, Batch(sample.x, sample.y, 4, training=False))
    net.losses[-1].smoothing = 0.3
    assert total_loss(net, Batch(sample.x, sample.y, 4, training=False)) == plain
    with_dropout = total_loss(net, sample)
    logs = net.logits - np.log(np.exp(net.logits.astype(np.float64)).sum(1, keepdims=True))
    want = -0.7 * logs[np.arange(4), sample.y].mean() - 0.3 * logs.mean()
    assert with_dropout == pytest.approx(want, rel=1e-5)


def test_the_loss_of_text_is_a_mean_over_tokens():
    net = build("transformer-mini")
    sample = batch(net, 3)
    loss = total_loss(net, sample)
    logs = net.logits - np.log(np.exp(net.logits.astype(np.float64)).sum(-1, keepdims=True))
    assert loss == pytest.approx(-np.take_along_axis(logs, sample.y[..., None], -1).mean(), rel=1e-5)


def test_heads_must_share_out_the_width():
    with pytest.raises(ValueError, match="a width of 64 cannot be shared out among 5 heads"):
        nets.build("transformer-mini", heads=5)


def test_nets_that_begin_otherwise_than_with_a_layer():
    """Blocks before the first layer, and blocks that add up or join what layers within them give back."""
    beginnings = [
        (Flatten(),), (MaxPool(2, 2), Flatten()),
        (Concat(Conv("a", 3, 1), Conv("b", 4, 1)), GlobalAvgPool()),
        (Residual(ConvNorm("a", 2, 1), ConvNorm("b", 2, 1)), GlobalAvgPool()),
    ]
    for beginning in beginnings:
        net = nets.build(lambda classes, beginning=beginning: Sequence(
            *beginning, Dense("last", classes, relu=False), Loss()), shape=(6, 6, 2), classes=3)
        x, y = net.example(4, np.random.default_rng(0))
        names = [layer.name for layer in net.forward(Batch(x, y, 4))]
        assert [layer.name for layer in net.backward()] == names[::-1]
        assert all(np.abs(layer.g).max() > 0 for layer in net.layers)


@pytest.mark.parametrize("name", ["alexnet-mini", "googlenet-mini", "resnet-mini", "transformer-mini"])
def test_gradients_in_bfloat16_are_those_in_float32_nearly(name):
    found = {}
    for precision in ("float32", "bfloat16"):
        net = nets.build(name, precision=precision)
        batch = Batch(*net.example(8, np.random.default_rng(0)), 8)
        for _ in (*net.forward(batch), *net.backward()):
            pass
        assert net.layers[-1].y.dtype.name == precision
        found[precision] = float(net.loss), net.layers[-1].g.copy()
    (loss, gradient), (short_loss, short_gradient) = found.values()
    assert short_loss == pytest.approx(loss, rel=0.01)
    assert np.linalg.norm(short_gradient - gradient) < 0.05 * np.linalg.norm(gradient)


def test_bfloat16_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ValueError, match=r"bfloat16 needs ml_dtypes \| try: pip install"):
        nets.build("alexnet-mini", precision="bfloat16")
