import numpy as np
import pytest

import nets
from mpilayer.train import Batch


@pytest.mark.parametrize(("name", "options", "published"), [
    ("alexnet", {}, 60_965_224),
    ("googlenet", {}, 13_378_280),
    ("googlenet", {"aux": False}, 6_998_552),
])
def test_parameter_counts_are_the_published_ones(name, options, published):
    net = nets.build(name, **options)
    assert net.size == sum(layer.w.size for layer in net.layers) == published


def batch(net, size=4, training=True, seed=5):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((size, *net.shape), np.float32)
    return Batch(x, rng.integers(0, net.classes, size), size, training=training)


def build(name, shape=(8, 8, 1)):
    return nets.build(name, classes=10, shape=shape, seed=1)


@pytest.mark.parametrize("name", ["alexnet-mini", "googlenet-mini"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
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


@pytest.mark.parametrize("name", ["alexnet-mini", "googlenet-mini"])
def test_a_gradient_is_final_when_its_layer_is_yielded(name):
    net = build(name)
    for _ in net.forward(batch(net)):
        pass
    seen = [(layer, layer.g.copy()) for layer in net.backward()]
    for layer, gradient in seen:
        np.testing.assert_array_equal(gradient, layer.g, err_msg=layer.name)


@pytest.mark.parametrize("name", ["alexnet-mini", "googlenet-mini"])
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


@pytest.mark.parametrize("name", ["alexnet-mini", "googlenet-mini"])
def test_gradient_is_the_slope_of_the_loss(name):
    """Along random directions in each layer's weights; float32, so the step is large and the tolerance follows."""
    net = build(name)
    sample = batch(net, 8)
    total_loss(net, sample)
    for _ in net.backward():
        pass
    gradient, weights = net.gradients[0].copy(), net.weights.copy()
    direction = gradient / np.linalg.norm(gradient)
    step = 1e-2
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
