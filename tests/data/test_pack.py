import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from mpilayer.base.errors import UserError
from mpilayer.data import open_data, pack, shards
from tests.ranks import environment, mpiexec

RNG = np.random.default_rng(0)
MODES = {"grey": "L", "palette": "P", "cmyk": "CMYK", "alpha": "RGBA", "bits": "1", "plain": "RGB"}


def picture(mode="RGB", size=(40, 30)):
    return Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def tree(top, classes=("cat", "dog"), count=3):
    for name in classes:
        (top / name).mkdir(parents=True)
        for i in range(count):
            picture(size=(40 + i, 30)).save(top / name / f"{i}.png")
    return top


def run(*words, ranks=1, **more):
    return mpiexec(ranks, "-m", "mpilayer.data", "pack", *words, **more)


def alone():
    """What pack() needs of ranks, without MPI."""
    return SimpleNamespace(rank=0, size=1, where="", agree=lambda action: action(),
                           bcast=lambda value: value)


def options(folder, out, **more):
    return SimpleNamespace(**{"folder": folder, "out": out, "test": None, "size": 8, "damaged": "skip", **more})


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_packed_folder_is_read_as_data(tmp_path, ranks):
    train, test = tree(tmp_path / "train", count=5), tree(tmp_path / "test", count=2)
    done = run(train, tmp_path / "out.h5", "--size", 16, "--test", test, ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert "10 training images of 2 classes, 0 files skipped" in done.stdout
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["x"].chunks == (1, 16, 16, 3)
        assert file.attrs["class_names"].tolist() == ["cat", "dog"]
        assert (sorted(file["y"]), sorted(file["y_test"])) == ([0] * 5 + [1] * 5, [0, 0, 1, 1])
        assert file["y"][:].tolist() != sorted(file["y"])  # neighbours are of different classes
        x = file["x"][:]
        np.testing.assert_allclose(file.attrs["mean"], x.mean((0, 1, 2)))
        np.testing.assert_allclose(file.attrs["std"], x.std((0, 1, 2)))
        assert any((each == pack.decode(train / "dog" / "2.png", 16)).all() for each in x[file["y"][:] == 1])
    with open_data(tmp_path / "out.h5") as data:
        x, y = data.train.read(np.arange(10))
        assert data.classes == 2
        np.testing.assert_allclose([x.mean(), x.std()], [0, 1], atol=1e-2)
    assert not (tmp_path / "out.h5.partial").exists()


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = picture(mode, (16, 16))
    file = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(file)
    flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image) if mode == "RGBA" else image
    np.testing.assert_array_equal(pack.decode(file, 16), np.asarray(flat.convert("RGB")))


def test_sixteen_bits_are_scaled_and_clear_parts_are_white(tmp_path):
    Image.fromarray(np.full((9, 9), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    assert (pack.decode(tmp_path / "deep.png", 9) == 0x80).all()
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (pack.decode(tmp_path / "clear.png", 9) == 255).all()


def test_the_shorter_side_is_scaled_and_the_middle_taken(tmp_path):
    x = np.zeros((20, 60, 3), np.uint8)
    x[:, 20:40] = 200
    Image.fromarray(x).save(tmp_path / "wide.png")
    assert (pack.decode(tmp_path / "wide.png", 10)[:, 1:-1] == 200).all()


def damaged(folder):
    whole = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(whole[:len(whole) // 2])
    (folder / "dog" / "0.png").write_bytes(b"no image")
    (folder / "dog" / "2.png").write_bytes(b"")
    return folder


def test_damaged_images_are_reported_and_skipped(tmp_path):
    done = run(damaged(tree(tmp_path / "t")), tmp_path / "out.h5", "--size", 8, ranks=2)
    assert done.returncode == 0, done.stderr
    told = [name for name in ("cat/0", "cat/1", "dog/0", "dog/1", "dog/2") if f"{name}.png | damaged" in done.stdout]
    assert told == ["cat/1", "dog/0", "dog/2"]
    assert "3 training images of 2 classes, 3 files skipped" in done.stdout
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file["y"]) == [0, 0, 1]
        assert file["x"].shape == (3, 8, 8, 3)


def test_damaged_images_are_fatal_if_asked_and_nothing_is_left_behind_as_whole(tmp_path):
    done = run(damaged(tree(tmp_path / "t")), tmp_path / "out.h5", "--damaged", "fatal", ranks=2)
    assert done.returncode == 2
    assert re.search(r"(cat|dog)/\d.png \| damaged", done.stderr)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_empty_classes_and_equal_names(tmp_path):
    folder = tree(tmp_path / "t", ("b", "B"))
    (folder / "a").mkdir()
    picture().save(folder / "b" / "0.jpg")  # as well as 0.png
    done = run(folder, tmp_path / "out.h5", "--size", 8)
    assert done.returncode == 0, done.stderr
    assert f"no images in {folder / 'a'}" in done.stdout
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file["y"]) == [0] * 3 + [2] * 4
        assert (file.attrs["classes"], file.attrs["class_names"].tolist()) == (3, ["B", "a", "b"])


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    folder, whole, parts = tree(tmp_path / "t", count=30), tmp_path / "whole.h5", tmp_path / "parts.h5"
    pack.pack(alone(), options(folder, whole))
    tried, decode = [], pack.decode

    def interrupted(path, size):
        tried.append(path)
        if len(tried) == 40:
            raise KeyboardInterrupt
        return decode(path, size)

    monkeypatch.setattr(pack, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack.pack(alone(), options(folder, parts))
    assert not parts.exists()
    again = len(tried)
    pack.pack(alone(), options(folder, parts))
    assert len(tried) - again == 60 - 32  # two blocks of 16 were written
    with h5py.File(whole) as one, h5py.File(parts) as other:
        for key in ("x", "y"):
            np.testing.assert_array_equal(one[key][:], other[key][:])
        np.testing.assert_allclose(one.attrs["mean"], other.attrs["mean"])


def test_a_killed_run_goes_on(tmp_path):
    folder, out = tmp_path / "t", tmp_path / "out.h5"
    (folder / "a").mkdir(parents=True)
    picture(size=(1500, 1500)).save(folder / "a" / "0.png")
    for i in range(1, 80):
        os.link(folder / "a" / "0.png", folder / "a" / f"{i}.png")
    command = [sys.executable, "-m", "mpilayer.data", "pack", folder, out, "--size", "32"]
    first = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (partial := tmp_path / "out.h5.partial").exists() or partial.stat().st_size < 16 * 32 * 32 * 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not out.exists()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    with h5py.File(out) as file:
        assert file["x"].shape == (80, 32, 32, 3)
        assert (file["x"][:] == file["x"][0]).all()


def test_a_full_disk_leaves_what_can_go_on(tmp_path, monkeypatch):
    folder, out = tree(tmp_path / "t", count=20), tmp_path / "out.h5"
    calls, room = [], shutil.disk_usage

    def full(path):
        calls.append(path)
        return room(path)._replace(free=1000) if len(calls) > 1 else room(path)

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(UserError, match="the disk is full: .* bytes needed, 1,000 free .*it goes on where it stopped"):
        pack.pack(alone(), options(folder, out))
    assert not out.exists()
    with h5py.File(tmp_path / "out.h5.partial") as file:
        assert len(file["x"]) == len(file["y"]) == 16
    monkeypatch.setattr(shutil, "disk_usage", room)
    pack.pack(alone(), options(folder, out))
    with h5py.File(out) as file:
        assert len(file["x"]) == 40


def test_what_was_begun_otherwise_is_not_gone_on_with(tmp_path):
    folder, out = tree(tmp_path / "t"), tmp_path / "out.h5"
    partial = pack.Partial(out, 8, {"": pack.scan(folder)})
    partial.begin({"": None})
    with pytest.raises(UserError, match="was begun with other images or another --size .*deleting it"):
        pack.pack(alone(), options(folder, out, size=9))


def test_what_cannot_be_packed(tmp_path):
    folder = tree(tmp_path / "t")
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.h5").touch()
    other = tree(tmp_path / "u", ["cat"])
    for words, message in [((tmp_path / "none", tmp_path / "o.h5"), "none | cannot be read: No such file"),
                           ((tmp_path / "empty", tmp_path / "o.h5"), "expected FOLDER/class/image, found 0 folders"),
                           ((folder, tmp_path / "there.h5"), "there.h5 | is there already"),
                           ((folder, tmp_path / "no" / "o.h5"), "is no folder to write to"),
                           ((folder, tmp_path / "o.h5", "--test", other), "these are in one only: ['dog'"),
                           ((folder, tmp_path / "o.h5", "--size", "0"), "expected a positive whole number")]:
        done = run(*words)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert message in done.stderr, done.stderr
        assert done.stderr.count("mpilayer:") == 1


def test_links_in_a_circle_end(tmp_path):
    folder = tree(tmp_path / "t")
    os.symlink(folder, folder / "cat" / "circle")
    assert len(pack.scan(folder).files) == 6


def test_what_is_no_regular_file_is_passed_over_and_odd_names_are_printed(tmp_path):
    folder = tmp_path / "images" / "one"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "fifo.jpg")
    (folder / "folder.jpg").mkdir()
    odd = os.fsencode(folder) + b"/\xff\xfe.png"
    Image.new("RGB", (8, 8)).save(os.fsdecode(odd))
    with open(os.fsencode(folder) + b"/\xff.jpg", "wb") as file:
        file.write(b"no image")
    done = run(tmp_path / "images", tmp_path / "out.h5", "--size", 8)
    assert done.returncode == 0, done.stderr
    assert "1 training images" in done.stdout.replace("\n", " ")
    assert "damaged" in done.stdout


def in_tar(top, name, samples):
    """A tar file of {key: class}, as WebDataset has it; what is no image, or has no class, is passed over."""
    with tarfile.open(top / name, "w") as archive:
        def add(member, data):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))

        for key, number in samples.items():
            add(f"{key}.png", png())
            add(f"{key}.cls", str(number).encode())
            add(f"{key}.json", b"{}")
        add("alone.png", png())


def png():
    file = io.BytesIO()
    picture().save(file, "png")
    return file.getvalue()


def in_parquet(top, name, labels, names=None):
    """Two row groups, as Hugging Face writes them."""
    images = [{"bytes": png(), "path": None} for _ in labels]
    features = {"info": {"features": {"label": {"names": names}}}} if names else {}
    table = pyarrow.table({"image": images, "label": labels}).replace_schema_metadata(
        {"huggingface": json.dumps(features)})
    parquet.write_table(table, top / name, row_group_size=2)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_archives_are_packed_in_their_order(tmp_path, kind, ranks):
    if kind == "tar":
        in_tar(tmp_path, "train-0.tar", {"a/1": 2, "a/2": 0})
        in_tar(tmp_path, "train-1.tar", {"b/1": 1})
        in_tar(tmp_path, "test.tar", {"t": 1})
    else:
        in_parquet(tmp_path, "train-0.parquet", [2, 0, 1], ["ant", "bee", "cat"])
        in_parquet(tmp_path, "test.parquet", [1], ["ant", "bee", "cat"])
    done = run(tmp_path / f"train-*.{kind}", tmp_path / "out.h5", "--test", tmp_path / f"test.{kind}", "--size", 8,
               ranks=ranks)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file["y"][:].tolist(), file["y_test"][:].tolist()) == ([2, 0, 1], [1])
        assert file.attrs["class_names"].tolist() == (["0", "1", "2"] if kind == "tar" else ["ant", "bee", "cat"])
        assert len({image.tobytes() for image in file["x"][:]}) == 3
    with open_data(tmp_path / "out.h5") as data:
        assert (len(data.train), len(data.test), data.classes) == (3, 1, 3)


def test_members_and_cells_are_the_images_that_were_written(tmp_path):
    in_tar(tmp_path, "a.tar", {"k": 3})
    _, [(member, number)] = shards.scan(str(tmp_path / "a.tar"), {".png"})
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert member.open().read() == archive.extractfile("k.png").read()
    assert (number, str(member)) == (3, f"{tmp_path}/a.tar: k.png")
    in_parquet(tmp_path, "a.parquet", [0, 1, 0])
    _, cells = shards.scan(str(tmp_path / "a.parquet"), set())
    values = parquet.read_table(tmp_path / "a.parquet").column("image").to_pylist()
    assert [cell.open().read() for cell, _ in cells] == [value["bytes"] for value in values]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("none-*.tar", None, "there is no such file"),
    ("a.tar", b"no tar", "cannot be read"),
    ("a.parquet", b"no parquet", "cannot be read"),
])
def test_archives_that_cannot_be_packed(tmp_path, name, content, message):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        shards.scan(str(tmp_path / name), {".png"})


def test_archives_without_classes(tmp_path):
    in_tar(tmp_path, "a.tar", {})
    with pytest.raises(UserError, match="expected images with classes, found none in 1 files"):
        shards.scan(str(tmp_path / "a.tar"), {".png"})
    parquet.write_table(pyarrow.table({"image": [b""], "kind": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="expected a column label or labels or fine_label, found image, kind"):
        shards.scan(str(tmp_path / "a.parquet"), {".png"})
