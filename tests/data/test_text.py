import numpy as np
import pytest

from mpilayer.data import DataError, open_data
from mpilayer.data.text import reference


def test_tokens_are_bytes_and_labels_the_next_ones(tmp_path):
    file = tmp_path / "some.txt"
    content = bytes(np.random.default_rng(0).integers(0, 256, 1005, np.uint8))
    file.write_bytes(content)
    data = open_data(f"text:{file}", context=10)
    assert (data.shape, data.classes, len(data.train), len(data.test)) == ((10,), 256, 89, 9)
    x, y = data.train.read([2, 0])
    assert x.dtype == y.dtype == np.int64
    assert bytes(x[0].tolist()) == content[20:30]
    assert bytes(y[0].tolist()) == content[21:31]
    assert bytes(y[1].tolist()) == content[1:11]
    assert bytes(data.test.read([0])[0][0].tolist()) == content[905:915]
    last, after = data.train.read([88], epoch=3)
    assert np.array_equal(last[0, 1:], after[0, :-1])


def test_windows_begin_elsewhere_in_each_epoch_and_stay_in_the_training_part():
    text = reference()
    data = open_data("text", context=64, seed=1)
    begin = len(text) - len(text) // 10
    starts = set()
    for epoch in range(20):
        x, y = data.train.read([len(data.train) - 1], epoch=epoch)
        place = text.rindex(bytes(x[0].tolist()), 0, begin)
        assert place + 65 <= begin
        starts.add(place)
        np.testing.assert_array_equal(data.train.read([len(data.train) - 1], epoch=epoch)[0], x)
    assert len(starts) > 10


def test_the_reference_is_english():
    text = reference()
    assert len(text) > 300_000
    assert text.count(b" the ") > 1000


@pytest.mark.parametrize(("content", "message"), [(b"", "expected at least 200 bytes, got 0"),
                                                  (b"a" * 150, "expected at least 200 bytes, got 150")])
def test_too_short_a_text(tmp_path, content, message):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_data(f"text:{tmp_path / 't'}", context=10)


def test_no_such_file_and_no_images():
    with pytest.raises(DataError, match=r"/nowhere \| cannot be read: No such file"):
        open_data("text:/nowhere")
    with pytest.raises(DataError, match="these are no images"):
        open_data("text", augment="flip")


def test_held_out_sequences_are_those_that_training_lacks():
    with open_data("text", context=64) as whole, open_data("text", context=64, validation=0.25) as data:
        assert len(data.train) + len(data.test) == len(whole.train)
        assert len(data.test) == len(whole.train) // 4
        kept, out = (part.read(np.arange(len(part)))[0] for part in (data.train, data.test))
        everything = whole.train.read(np.arange(len(whole.train)))[0]
    assert sorted(map(bytes, (*kept.astype(np.uint8), *out.astype(np.uint8)))) == sorted(
        map(bytes, everything.astype(np.uint8)))
    with pytest.raises(DataError, match="expected 0"):
        data.test.read([len(data.test)])
