import os

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpilayer.data import DataError, open_data, stored
from mpilayer.data.digits import FILE
from tests.data.errors import refuses

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4


def write(path, classes=None, **datasets):
    with h5py.File(path, "w") as file:
        for key, values in datasets.items():
            file[key] = values
        if classes is not None:
            file.attrs["classes"] = classes
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.h5"


# Files that are not what they should be


def test_no_such_file(path):
    refuses(path, "no such file")


def test_directory(tmp_path):
    refuses(tmp_path, "expected a file, got a directory")


def test_empty_file(path):
    path.touch()
    refuses(path, "the file is empty")


def test_other_format(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(bytes(4096))
    refuses(path, "expected an HDF5 file", "docs/data.md")


@pytest.mark.parametrize("name", ["a\0b.h5", "a" * 5000 + ".h5"])
def test_impossible_name(name):
    refuses(name, "no such file")


@pytest.fixture
def nobody():
    """Not root, who may read everything."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    yield
    os.seteuid(me)


@pytest.fixture
def unreadable(path, monkeypatch):
    """A file nobody may read, in the current folder: nobody may not enter those above it."""
    write(path, x=IMAGES, y=LABELS).chmod(0)
    path.parent.chmod(0o755)
    monkeypatch.chdir(path.parent)
    return path.name


@pytest.mark.usefixtures("unreadable", "nobody")
def test_no_permission(unreadable):
    refuses(unreadable, "Permission denied")


@pytest.mark.parametrize("part", [0.001, 0.002, 0.03, 0.25, 0.5, 0.9, 0.9999])
def test_truncated_file(path, part):
    whole = FILE.read_bytes()
    path.write_bytes(whole[:int(part * len(whole))])
    refuses(path, "damaged or cut short", "writing the file again")


def test_a_few_bytes_are_not_hdf5(path):
    path.write_bytes(FILE.read_bytes()[:4])
    refuses(path, "expected an HDF5 file")


@pytest.mark.parametrize(("datasets", "fragments"), [
    ({}, ["| x |", "the file has nothing"]),
    ({"images": IMAGES, "y": LABELS}, ["| x |", "the file has images, y"]),
    ({"x": IMAGES}, ["| y |", "the file has x"]),
    ({"x": IMAGES, "y": LABELS, "x_test": IMAGES}, ["| y_test |", "the file has x, x_test, y"]),
    ({"x": IMAGES, "y": LABELS, "y_test": LABELS}, ["| x_test |", "the file has x, y, y_test"]),
    ({"x/inner": IMAGES, "y": LABELS}, ["| x |", "expected a dataset x"]),
    ({"x": h5py.SoftLink("/nowhere"), "y": LABELS}, ["| x |", "expected a dataset x"]),
    ({"x": IMAGES[..., 0], "y": LABELS}, ["| x |", "(N,H,W,C)", "(40, 5, 4)"]),
    ({"x": IMAGES.astype(float), "y": LABELS}, ["| x |", "uint8 or float32", "float64"]),
    ({"x": IMAGES > 9, "y": LABELS}, ["| x |", "uint8 or float32", "bool"]),
    ({"x": h5py.Empty("f4"), "y": LABELS}, ["| x |", "(N,H,W,C)", "None"]),
    ({"x": IMAGES[:0], "y": LABELS[:0]}, ["| x |", "at least one sample", "(0, 5, 4, 3)"]),
    ({"x": IMAGES[:, :0], "y": LABELS}, ["| x |", "at least one sample", "(40, 0, 4, 3)"]),
    ({"x": IMAGES, "y": LABELS[:39]}, ["| y |", "expected integer (40,)", "(39,)"]),
    ({"x": IMAGES, "y": LABELS[:, None]}, ["| y |", "expected integer (40,)", "(40, 1)"]),
    ({"x": IMAGES, "y": LABELS + 0.5}, ["| y |", "expected integer (40,)", "float64"]),
    ({"x": IMAGES, "y": LABELS - 1}, ["| y |", "got [-1, -1, -1] at [0, 4, 8]", "from 0"]),
    ({"x": IMAGES, "y": LABELS.astype("u8") + (1 << 63)}, ["| y |", "expected labels in 0.."]),
    ({"x": IMAGES, "y": LABELS, "classes": 3}, ["| y |", "in 0..2", "[3, 3, 3] at [3, 7, 11]"]),
    ({"x": IMAGES, "y": LABELS, "x_test": IMAGES, "y_test": LABELS - 1}, ["| y_test |", "[-1, -1, -1]"]),
    ({"x": IMAGES, "y": LABELS, "x_test": IMAGES[:, :2], "y_test": LABELS},
     ["| x_test |", "expected (5, 4, 3) as in x, got (2, 4, 3)"]),
    ({"x": IMAGES, "y": LABELS, "classes": "four"}, ["attribute", "classes", "four"]),
    ({"x": IMAGES, "y": LABELS, "classes": 0}, ["attribute", "classes", ">= 1, got", "0"]),
    ({"x": IMAGES[:9], "y": LABELS[:9]}, ["| x |", "at least 10 samples", "got 9", "x_test"]),
])
def test_wrong_content(path, datasets, fragments):
    refuses(write(path, **datasets), *fragments)


def test_a_refused_file_is_closed(path):
    refuses(write(path, x=IMAGES), "| y |")
    write(path, x=IMAGES, y=LABELS)  # HDF5 does not write to a file that is open


def corrupt(path, key):
    """A file whose dataset `key` has a damaged gzip chunk."""
    with h5py.File(path, "w") as file:
        for name, values in {"x": IMAGES, "y": LABELS}.items():
            file.create_dataset(name, data=values, chunks=values.shape, compression="gzip")
        chunk = file[key].id.get_chunk_info(0)
    with open(path, "r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    return path


def test_damaged_images_in_memory(path):
    refuses(corrupt(path, "x"), "| x |", "cannot be read")


def test_damaged_labels(path):
    refuses(corrupt(path, "y"), "| y |", "cannot be read")


def test_damaged_images_in_the_file(path, monkeypatch):
    monkeypatch.setattr(stored, "RESIDENT_BYTES", 0)
    with open_data(corrupt(path, "x")) as some, pytest.raises(DataError, match="cannot be read") as error:
        some.train.read([0])
    assert str(error.value).startswith(f"{path} | x | cannot be read")


# Files that are


@pytest.mark.parametrize(("classes", "expected"), [(None, 4), (7, 7)])
def test_classes(path, classes, expected):
    with open_data(write(path, x=IMAGES, y=LABELS, classes=classes)) as some:
        assert (some.name, some.shape, some.classes) == (str(path), (5, 4, 3), expected)


def test_classes_count_over_both_parts(path):
    with open_data(write(path, x=IMAGES, y=LABELS, x_test=IMAGES[:3], y_test=LABELS[:3] + 5)) as some:
        assert some.classes == 8
        assert (len(some.train), len(some.test)) == (40, 3)


def test_every_tenth_sample_is_the_test_part(path):
    write(path, x=np.arange(25, dtype=np.float32).reshape(25, 1, 1, 1), y=np.arange(25))
    with open_data(path) as some:
        assert some.test.read([0, 1])[0].ravel().tolist() == [9, 19]
        assert some.test.read([0, 1])[1].tolist() == [9, 19]
        x, y = some.train.read(np.arange(23))
        assert x.ravel().tolist() == y.tolist() == [i for i in range(25) if i not in (9, 19)]


FLOATS = RNG.standard_normal((40, 5, 4, 3), np.float32)


@pytest.fixture(params=[stored.RESIDENT_BYTES, 0], ids=["memory", "file"])
def limit(request, monkeypatch):
    monkeypatch.setattr(stored, "RESIDENT_BYTES", request.param)


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize(("stored", "expected"), [
    (IMAGES, IMAGES / np.float32(127.5) - np.float32(1)),
    (FLOATS, FLOATS),
    (FLOATS.astype(">f4"), FLOATS),
], ids=["uint8", "float32", "big-endian"])
def test_reading_any_order(path, stored, expected):
    with open_data(write(path, x=stored, y=LABELS, x_test=stored, y_test=LABELS)) as some:

        @settings(max_examples=60, deadline=None)
        @given(indices=st.lists(st.integers(0, 39), max_size=60))
        def matches(indices):
            x, y = some.test.read(indices)
            assert x.dtype == np.float32
            assert x.flags.c_contiguous
            assert y.dtype == np.int64
            indices = np.array(indices, int)
            np.testing.assert_array_equal(x, expected[indices])
            np.testing.assert_array_equal(y, LABELS[indices])

        matches()


def test_large_images_stay_in_the_file(path):
    x = np.zeros((stored.RESIDENT_BYTES // 65536 + 1, 256, 256, 1), np.uint8)
    x[:, 0, 0, 0] = np.arange(len(x)) % 251
    some = open_data(write(path, x=x, y=np.arange(len(x)), x_test=x[:10], y_test=np.arange(10)))
    np.testing.assert_allclose(some.train.read([200, 3])[0][:, 0, 0, 0] * 127.5 + 127.5, [200, 3], atol=1e-4)
    some.close()
    some.test.read([0])
    with pytest.raises(DataError, match=r"\| x \| cannot be read"):
        some.train.read([0])


@pytest.mark.parametrize(("layout", "known"), [({}, True), ({"chunks": (1, 5, 4, 3)}, True),
                                               ({"chunks": (3, 5, 4, 3)}, False)], ids=["whole", "rows", "others"])
def test_what_is_expected_is_where_the_system_is_told(path, monkeypatch, layout, known):
    monkeypatch.setattr(stored, "RESIDENT_BYTES", 0)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=IMAGES, **layout)
        file["y"] = LABELS
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *words: told.append(words))
    with open_data(str(path)) as data:
        data.train.expect(np.array([7, 0, 30]))
        found = [os.pread(descriptor, size, offset) for descriptor, offset, size, _ in told]
    assert {advice for *_, advice in told} <= {os.POSIX_FADV_WILLNEED}
    assert found == ([IMAGES[row].tobytes() for row in data.train.rows[[7, 0, 30]]] if known else [])


def test_nothing_is_told_of_what_is_in_memory(path, monkeypatch):
    monkeypatch.setattr(os, "posix_fadvise", None)
    with open_data(str(write(path, x=IMAGES, y=LABELS))) as data:
        data.train.expect(np.arange(5))


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_must_be_finite_where_they_are_read(path, value):
    x = FLOATS.copy()
    x[17, 2, 1, 0] = value
    with open_data(write(path, x=x, y=LABELS)) as some:
        some.train.read([15, 17, 3])  # 9 is in the test part, so train 16 is sample 17 of the file
        with pytest.raises(DataError, match=r"\| x \| expected finite values, .* in samples \[17\]"):
            some.train.read([20, 16, 3])


def test_mean_and_deviation_of_a_file(path):
    with h5py.File(write(path, x=IMAGES, y=LABELS), "a") as file:
        file.attrs["mean"], file.attrs["std"] = np.full(IMAGES.shape[3], 100.0), np.full(IMAGES.shape[3], 50.0)
    with open_data(path) as some:
        np.testing.assert_array_equal(some.test.read([0])[0], (IMAGES[9:10] - np.float32(100)) / np.float32(50))
    with h5py.File(path, "a") as file:
        del file.attrs["std"]
    refuses(path, "attributes mean and std", "writing both or neither")


# Files that lead elsewhere, or change


def elsewhere(tmp_path):
    return write(tmp_path / "other.h5", x=IMAGES, y=LABELS)


def test_a_link_to_another_file_is_not_followed(tmp_path, path):
    other = elsewhere(tmp_path)
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = h5py.ExternalLink(str(other), "x"), LABELS
    refuses(path, "| x |", "got a link, which may lead to another file")


def test_values_kept_in_another_file_are_not_read(tmp_path, path):
    (tmp_path / "raw").write_bytes(IMAGES.tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("x", IMAGES.shape, np.uint8, external=[(str(tmp_path / "raw"), 0, IMAGES.nbytes)])
        file["y"] = LABELS
    refuses(path, "| x |", "expected values in this file")
    other, layout = elsewhere(tmp_path), h5py.VirtualLayout(IMAGES.shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(other), "x", IMAGES.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)
        file["y"] = LABELS
    refuses(path, "| x |", "expected values in this file")


@pytest.mark.parametrize("change", ["cut", "written", "replaced"])
def test_a_file_that_changes_while_it_is_read_is_noticed(path, change, monkeypatch):
    monkeypatch.setattr(stored, "RESIDENT_BYTES", 0)
    write(path, x=IMAGES, y=LABELS)
    with open_data(path) as data:
        before = data.train.read([0, 5])[0]
        np.testing.assert_array_equal(data.train.read([0, 5])[0], before)
        if change == "cut":
            os.truncate(path, path.stat().st_size // 2)
        elif change == "written":
            with open(path, "r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")
        else:
            os.replace(write(path.with_name("new.h5"), x=IMAGES, y=LABELS), path)
        part = {"cut": "bytes", "written": "time of change", "replaced": "number of the file"}[change]
        with pytest.raises(DataError, match=rf"some\.h5 .*{part}|cannot be read"):
            data.train.read([0, 5])


@pytest.mark.parametrize("stray", [40, 10**6, 2**31 - 1, 2**40])
def test_a_stray_label_makes_no_million_classes(path, stray):
    labels = LABELS.astype(np.int64)
    labels[7] = stray
    refuses(write(path, x=IMAGES, y=labels), "| y |", "labels")


def test_more_classes_than_samples_are_possible_if_the_file_says_so(path):
    labels = LABELS.astype(np.int64)
    labels[7] = 999
    with open_data(write(path, classes=1000, x=IMAGES, y=labels)) as data:
        assert data.classes == 1000


@pytest.mark.parametrize(("factor", "odd"), [(1, False), (1e30, True), (1e-30, True), (0, True), (30, False)])
def test_a_range_from_which_nets_learn_nothing_is_remarked(path, factor, odd):
    x = (RNG.standard_normal((40, 5, 4, 3)) * factor).astype(np.float32)
    with open_data(write(path, x=x, y=LABELS)) as data:
        assert [remark.startswith(f"{path}: images with mean") for remark in data.remarks] == [True] * odd
