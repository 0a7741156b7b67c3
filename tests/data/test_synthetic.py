import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpilayer.data import DataError, open_data


def test_synthetic_defaults():
    with open_data("synthetic") as some:
        assert (some.name, some.shape, some.classes) == ("synthetic", (32, 32, 3), 10)
        assert (len(some.train), len(some.test)) == (4096, 512)


@pytest.mark.parametrize(("form", "fragment"), [
    ({"shape": (8, 8)}, r"shape \(H,W,C\), got \(8, 8\)"),
    ({"shape": 8}, r"shape \(H,W,C\), got 8"),
    ({"shape": (8, 0, 1)}, "W to be an integer >= 1, got 0"),
    ({"shape": (8, 8, 1.0)}, "C to be an integer >= 1, got 1.0"),
    ({"classes": 0}, "classes to be an integer >= 1, got 0"),
    ({"classes": "ten"}, "classes to be an integer >= 1, got 'ten'"),
    ({"seed": -1}, "seed to be an integer >= 0, got -1"),
])
def test_wrong_form(form, fragment):
    with pytest.raises(DataError, match=fragment):
        open_data("synthetic", **form)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 40), shape=st.tuples(*[st.integers(1, 20)] * 2, st.integers(1, 4)),
       classes=st.integers(1, 30), indices=st.lists(st.integers(0, 511), max_size=8))
def test_a_synthetic_sample_is_the_same_in_any_batch(seed, shape, classes, indices):
    one, other = (open_data("synthetic", seed=seed, shape=shape, classes=classes) for _ in range(2))
    x, y = one.test.read(indices)
    assert x.shape == (len(indices), *shape)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert y.dtype == np.int64
    for index, image, label in zip(indices, x, y, strict=True):
        alone, (same,) = other.test.read([index])
        np.testing.assert_array_equal(image, alone[0])
        assert label == same == (4096 + index) % classes


def test_synthetic_samples_differ():
    images = [open_data("synthetic", seed=seed).train.read([0, 10])[0] for seed in (0, 1)]
    assert len(np.unique(np.concatenate(images).reshape(4, -1), axis=0)) == 4
    assert 0.8 < images[0].std() < 1.2


@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (13, 17, 2)])
def test_synthetic_is_learnable(shape):
    some = open_data("synthetic", shape=shape)
    (x, y), (x_test, y_test) = (part.read(np.arange(len(part))) for part in (some.train, some.test))
    means = np.stack([x[y == label].mean(axis=0).ravel() for label in range(10)])
    scores = x_test.reshape(len(x_test), -1) @ means.T - (means ** 2).sum(axis=1) / 2
    assert (scores.argmax(axis=1) == y_test).mean() > 0.9


def test_synthetic_of_a_thousand_classes_is_small():
    some = open_data("synthetic", shape=(227, 227, 3), classes=1000)
    assert some.train.images.patterns.nbytes + some.train.images.pool.nbytes < 8 << 20
    assert some.train.read(range(4))[0].shape == (4, 227, 227, 3)
