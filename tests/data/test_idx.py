import gzip
import struct

import numpy as np
import pytest

from mpilayer.data import DataError, idx, open_data

RNG = np.random.default_rng(0)
IMAGES = {"train": RNG.integers(0, 256, (12, 5, 4), np.uint8), "t10k": RNG.integers(0, 256, (3, 5, 4), np.uint8)}
LABELS = {"train": np.arange(12, dtype=np.uint8) % 4, "t10k": np.array([3, 1, 0], np.uint8)}


def encode(array, kind=8):
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    for name in IMAGES:
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(encode(IMAGES[name]))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode(LABELS[name])))
    return tmp_path


def test_what_is_written_is_read(folder):
    with open_data(f"idx:{folder}") as data:
        assert (data.shape, data.classes, len(data.train), len(data.test)) == ((5, 4, 1), 4, 12, 3)
        x, y = data.train.read([11, 0, 0])
        np.testing.assert_allclose(x[..., 0], IMAGES["train"][[11, 0, 0]] / 127.5 - 1, atol=1e-6)
        assert (x.dtype, y.dtype, y.tolist()) == (np.float32, np.int64, [3, 0, 0])
        assert data.test.read([0])[1].tolist() == [3]


GOOD = encode(IMAGES["train"])


@pytest.mark.parametrize(("raw", "message"), [
    (b"", "expected an IDX file of bytes, it begins with b''"),
    (b"\x89PNG" + GOOD, "expected an IDX file of bytes"),
    (encode(IMAGES["train"], kind=13), "expected an IDX file of bytes"),
    (GOOD[:10], "expected 3 sizes, the file ends before"),
    (GOOD[:-1], r"expected 240 values for \(12, 5, 4\), got 239"),
    (GOOD + b"x", r"expected 240 values for \(12, 5, 4\), got more"),
    (encode(IMAGES["train"][:11]), r"as many labels, got \(11, 5, 4\) and \(12,\)"),
    (encode(IMAGES["train"][:, 0]), r"expected images \(N,H,W\)"),
    (encode(IMAGES["train"][:, :, :3]), r"expected test images of \(5, 3, 1\), got \(5, 4, 1\)"),
])
def test_what_is_wrong_is_said(folder, raw, message):
    (folder / "train-images-idx3-ubyte").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        open_data(f"idx:{folder}")


def test_a_damaged_archive(folder):
    file = folder / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz \| cannot be read.*\| try: fetching"):
        open_data(f"idx:{folder}")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("mpilayer.data.idx.FASHION", tmp_path)
    with pytest.raises(DataError, match="no.*train-labels-idx1-ubyte.*|there is none.*dataset-fashion-mnist"):
        open_data("fashion-mnist")


def test_fashion_mnist_is_such_a_folder(folder, monkeypatch):
    monkeypatch.setattr("mpilayer.data.idx.FASHION", folder)
    with open_data("fashion-mnist", validation=0.25) as data:
        assert (data.name, len(data.train), len(data.test)) == ("fashion-mnist", 9, 3)


def test_the_package_is_where_debian_puts_it():
    assert str(idx.FASHION) == "/usr/share/datasets/fashion-mnist"


def test_a_file_that_unpacks_to_far_more_than_it_says_is_not_unpacked(folder, monkeypatch):
    """16 MB of zeros behind a header of 240 bytes: what is read stays below what the header promises."""
    (folder / "train-images-idx3-ubyte").unlink()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(IMAGES["train"]) + bytes(1 << 24)))
    sizes, read = [], gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: sizes.append(size) or read(self, size))
    with pytest.raises(DataError, match="expected 240 values .*, got more"):
        open_data(f"idx:{folder}")
    assert min(sizes) >= 0
    assert max(sizes) == 241
