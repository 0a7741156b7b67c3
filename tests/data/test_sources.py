import h5py
import numpy as np
import pytest

from mpilayer.data import DataError, open_data
from mpilayer.data.digits import FILE
from tests.data.errors import refuses


def test_unknown_source_lists_the_choices():
    refuses("cifar", "unknown source", "digits, synthetic, fashion-mnist, idx:FOLDER, text, text:FILE, FILE.h5")


@pytest.mark.parametrize("source", [None, 3, b"digits"])
def test_source_must_be_a_name(source):
    refuses(source, "expected a name", "digits")


@pytest.mark.parametrize("form", [{"context": 8}, {"classes": 10}, {"classes": 10, "context": 8}])
def test_stored_data_has_its_own_form(form):
    refuses("digits", "expected no " + " or ".join(form), "leaving it out", **form)


@pytest.mark.parametrize("shape", [(9, 8, 1), (8, 8, 3)])
def test_a_window_is_no_larger_than_the_images(shape):
    refuses("digits", "expected a shape of at most (8, 8, 1) and as many channels", "a smaller --shape", shape=shape)


def test_digits():
    with open_data() as digits:
        assert (digits.name, digits.shape, digits.classes) == ("digits", (8, 8, 1), 10)
        assert (len(digits.train), len(digits.test)) == (1437, 360)
        (x, y), (x_test, y_test) = (part.read(np.arange(len(part))) for part in (digits.train, digits.test))
    assert np.bincount(y).tolist() == [142, 146, 141, 147, 144, 146, 145, 143, 139, 144]
    assert np.bincount(y_test).tolist() == [36, 36, 36, 36, 37, 36, 36, 36, 35, 36]
    x = np.concatenate([x, x_test])
    assert x.min() == -1
    assert x.max() == 1
    assert len(np.unique(x)) == 17
    assert np.rint((x + 1) * 8).sum() == 561718  # of the original pixels, 0..16
    assert len(np.unique(x.reshape(len(x), -1), axis=0)) == 1797


def test_digits_name_their_authors():
    with h5py.File(FILE) as file:
        assert {"title", "attribution", "made"} <= set(file.attrs)
        for fact in ("E. Alpaydin, C. Kaynak", "10.24432/C50P49", "CC BY 4.0"):
            assert fact in file.attrs["attribution"]


@pytest.mark.parametrize(("indices", "fragment"), [
    ([1437], r"0\.\.1436, got \[1437\]"),
    ([0, -1], r"0\.\.1436, got \[-1\]"),
    ([0.5], "expected integers"),
    ([True], "expected integers"),
    (3, "expected integers"),
    ([[1, 2]], r"expected integers \(n,\)"),
    ([[1], [1, 2]], r"expected indices \(n,\)"),
    (["a"], "expected integers"),
])
def test_wrong_indices(indices, fragment):
    with open_data() as digits, pytest.raises(DataError, match=fragment):
        digits.train.read(indices)


def test_a_validation_part_takes_the_place_of_the_test_part():
    with open_data() as whole, open_data(validation=0.25) as some:
        assert (len(some.train), len(some.test)) == (1437 - 359, 359)
        x, y = (np.concatenate(pair) for pair in zip(*(
            part.read(np.arange(len(part))) for part in (some.train, some.test)), strict=True))
        want, labels = whole.train.read(np.arange(1437))
        rows = [sorted(zip(map(bytes, images), numbers, strict=True)) for images, numbers in ((x, y), (want, labels))]
        assert rows[0] == rows[1]


def test_a_validation_part_leaves_some_to_train_on():
    refuses("digits", "expected some samples on both sides", "another --validation", validation=1.0)
