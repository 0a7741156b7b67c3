import numpy as np
import pytest
from PIL import Image

from mpilayer.data import AUGMENTS, open_data
from mpilayer.data.augment import View
from mpilayer.data.source import plain

ROWS = np.arange(200)


def images(height=12, width=10, channels=2):
    """Every pixel another value, and none of them 0."""
    size = height * width * channels
    return np.broadcast_to(np.arange(1, size + 1, dtype=np.float32).reshape(1, height, width, channels),
                           (len(ROWS), height, width, channels))


def view(augment, shape, seed=0):
    return View(plain, augment, shape, seed)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_in_evaluation_it_is_the_middle(augment):
    x = images()
    np.testing.assert_array_equal(view(augment, (8, 6))(x, ROWS, None), x[:, 2:10, 2:8])
    np.testing.assert_array_equal(view(augment, (12, 10))(x, ROWS, None), x)


def test_flip_turns_about_half():
    x = images()
    y = view("flip", (12, 10))(x, ROWS, 0)
    turned = np.array([np.array_equal(one, x[0, :, ::-1]) for one in y])
    assert all(np.array_equal(one, x[0]) for one in y[~turned])
    assert 70 < turned.sum() < 130


def test_a_crop_is_a_window_of_the_image_with_a_frame_of_zeros():
    x = images()
    framed = np.pad(x[0], ((4, 4), (4, 4), (0, 0)))
    found = set()
    for one in view("crop", (12, 10))(x, ROWS, 0):
        places = [(i, j, k) for i in range(9) for j in range(9) for k in (1, -1)
                  if np.array_equal(one, framed[i:i + 12, j:j + 10][:, ::k])]
        assert len(places) == 1
        found.add(places[0])
    assert len(found) > 100


def test_a_resized_crop_is_what_pillow_makes_of_the_same_box():
    """A ramp in each direction, whose middle Pillow's bilinear transform gives exactly."""
    x = np.zeros((1, 40, 50, 2), np.float32)
    x[0, ..., 0], x[0, ..., 1] = np.mgrid[:40, :50]
    some = view("resized-crop", (16, 16))
    for epoch in range(40):
        top, left, height, width, flipped = some._box((40, 50), np.random.default_rng([0, epoch, 7]))
        assert 0 <= top <= 40 - height
        assert 0 <= left <= 50 - width
        assert height * width >= 0.07 * 40 * 50
        y = some(x, [7], epoch)[0]
        for c in range(2):
            box = (width / 16, 0, left, 0, height / 16, top)
            want = np.asarray(Image.fromarray(x[0, ..., c]).transform((16, 16), Image.Transform.AFFINE, box,
                                                                      Image.Resampling.BILINEAR))
            inner = slice(1, -1), slice(1, -1)  # at the edge of the image Pillow leaves pixels out
            np.testing.assert_allclose(y[inner][..., c], (want[:, ::-1] if flipped else want)[inner], atol=1e-3)


@pytest.mark.parametrize("augment", ["flip", "crop", "resized-crop"])
def test_a_sample_depends_on_seed_epoch_and_index_alone(augment):
    x, some = images(), view(augment, (8, 8))
    whole = some(x, ROWS, 3)
    some_rows = np.array([150, 3, 77])
    np.testing.assert_array_equal(some(x[some_rows], some_rows, 3), whole[some_rows])
    assert not np.array_equal(some(x, ROWS, 4), whole)
    assert not np.array_equal(view(augment, (8, 8), seed=1)(x, ROWS, 3), whole)


def test_data_with_a_window():
    with open_data("digits", shape=(6, 6, 1), augment="crop") as data, open_data() as whole:
        assert data.shape == (6, 6, 1)
        np.testing.assert_array_equal(data.test.read([4])[0], whole.test.read([4])[0][:, 1:7, 1:7])
        assert not np.array_equal(data.train.read([4], epoch=0)[0], data.train.read([4], epoch=1)[0])
