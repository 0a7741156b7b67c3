"""Images become one HDF5 file: FOLDER/class/image.jpg, as ImageNet comes, or archives, 'train-*.tar' or '*.parquet'.

All ranks decode, the first one writes OUT.partial, which becomes OUT at the end; an interrupted run goes on there.
"""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from rich.console import Console
from rich.progress import Progress

from mpilayer.base.cli import Parser, count
from mpilayer.base.errors import UserError
from mpilayer.base.terminal import launcher_on_terminal
from mpilayer.data import shards
from mpilayer.mpi.job import job

BLOCK = 16  # images a rank decodes between two writes
SPARE = 1 << 20  # bytes that a file system must have beyond what is written next


class Tree(NamedTuple):
    """Images of a folder: the classes, and (path, class) of each file; or of archives, of each Member or Cell."""

    folder: Path
    classes: list
    files: list


def _suffixes():
    try:
        from PIL import Image
    except ImportError:
        raise UserError('packing images needs Pillow | try: pip install -e ".[images]"') from None
    return set(Image.registered_extensions())


def scan(folder):
    """The Tree of a folder; other files than images are passed over. They are mixed: neighbours in a packed file are to
    be of different classes, for --shuffle-block. Raises UserError.
    """
    suffixes = _suffixes()
    if shards.is_pattern(str(folder)) and not Path(folder).is_dir():
        return Tree(Path(folder), *shards.scan(str(folder), suffixes))
    try:
        classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        files = [(Path(folder, name, file), number) for number, name in enumerate(classes)
                 for file in sorted(entry.name for entry in os.scandir(Path(folder, name)) if entry.is_file())
                 if Path(file).suffix.lower() in suffixes]
    except OSError as error:
        raise UserError(f"{error.filename} | cannot be read: {error.strerror} | try: another folder") from None
    if not files:
        raise UserError(f"{folder} | expected FOLDER/class/image, found {len(classes)} folders and no image in them"
                        " | try: the folder above, or below")
    return Tree(Path(folder), classes, [files[place] for place in np.random.default_rng(0).permutation(len(files))])


def printable(path):
    """A path in words, also one whose bytes are no text."""
    return os.fsencode(str(path)).decode(errors="replace")


def decode(path, size):
    """The image as (size,size,3) uint8: its middle, scaled. Transparent parts become white. Raises UserError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path if isinstance(path, Path) else path.open()) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits
                image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
    except Exception as error:  # which one Pillow raises for a damaged file depends on the byte that is wrong
        what = "not enough memory for it" if isinstance(error, MemoryError) else f"damaged: {error}"
        raise UserError(f"{printable(path)} | {what} | try: --damaged skip, or without it") from None


def _attempt(path, size):
    """(pixels, None) or (None, what is wrong)."""
    try:
        return decode(path, size), None
    except UserError as error:
        return None, str(error).rsplit(" | try:", 1)[0]


class Partial:
    """OUT.partial: open only while something is written, so that whatever stops the run leaves it whole."""

    def __init__(self, out, size, trees):
        self.out, self.size = out, size
        self.path = out.with_name(f"{out.name}.partial")
        names = "\n".join(f"{path} {number}" for tree in trees.values() for path, number in tree.files)
        self.key = hashlib.sha256(f"{size}\n{names}".encode(errors="surrogateescape")).hexdigest()

    @contextlib.contextmanager
    def open(self, mode="r+"):
        """The file. Raises UserError."""
        try:
            with h5py.File(self.path, mode) as file:
                yield file
        except OSError as error:
            raise UserError(f"{self.path} | cannot be written: {error} | try: another OUT, or deleting it") from None

    def begin(self, trees):
        """How many files of each part are done; makes the file if there is none. Raises UserError."""
        if not self.path.exists():
            with self.open("w") as file:
                file.attrs["key"] = self.key
                file.attrs["skipped"] = 0
                for suffix in trees:
                    chunk = (1, self.size, self.size, 3)
                    file.create_dataset(f"x{suffix}", (0, *chunk[1:]), np.uint8, maxshape=(None, *chunk[1:]),
                                        chunks=chunk)
                    file.create_dataset(f"y{suffix}", (0,), np.int64, maxshape=(None,), chunks=(4096,))
                    file.attrs[f"done{suffix}"] = 0
                file.attrs["sums"] = np.zeros((2, 3))
        with self.open() as file:
            if file.attrs.get("key") != self.key:
                raise UserError(f"{self.path} | was begun with other images or another --size | try: deleting it")
            return {suffix: int(file.attrs[f"done{suffix}"]) for suffix in trees}

    def append(self, suffix, images, labels, count):
        """Write images, of `count` files that were tried. Raises UserError, before it writes, if the disk is full."""
        pixels = np.array(images, np.uint8).reshape(-1, self.size, self.size, 3)
        free, needed = shutil.disk_usage(self.path.parent).free, pixels.nbytes + SPARE
        if free < needed:
            raise UserError(f"{self.path.parent} | the disk is full: {needed:,} bytes needed, {free:,} free"
                            " | try: the same command when there is room: it goes on where it stopped")
        with self.open() as file:
            x, y = file[f"x{suffix}"], file[f"y{suffix}"]
            end = len(y) + len(labels)
            for dataset, values in ((x, pixels), (y, labels)):
                dataset.resize(end, axis=0)
                dataset[end - len(labels):] = values
            if suffix == "":
                scaled = pixels.reshape(-1, 3).astype(np.float64)
                file.attrs["sums"] = file.attrs["sums"] + [scaled.sum(0), (scaled**2).sum(0)]
            file.attrs[f"done{suffix}"] += count
            file.attrs["skipped"] += count - len(labels)

    def finish(self, classes):
        """Name the classes, note mean and deviation, and take the place of OUT. (samples, skipped files)."""
        with self.open() as file:
            count, (total, square) = len(file["y"]), file.attrs["sums"]
            if count == 0:
                raise UserError(f"{self.path} | expected an image that can be read, there is none | try: other images")
            pixels = count * self.size**2
            mean = total / pixels
            file.attrs["mean"], file.attrs["std"] = mean, np.sqrt(np.maximum(square / pixels - mean**2, 1.0))
            file.attrs["classes"], file.attrs["class_names"] = len(classes), [*map(printable, classes)]
            skipped = int(file.attrs["skipped"])
        os.replace(self.path, self.out)
        return count, skipped


def _trees(o):
    """{suffix of x and y: Tree}. Raises UserError."""
    trees = {"": scan(o.folder)} | ({"_test": scan(o.test)} if o.test else {})
    if o.test and not o.folder.is_dir():  # numbers, of which the test part may lack some
        trees["_test"] = trees["_test"]._replace(classes=max(trees["_test"].classes, trees[""].classes, key=len))
    if o.test and trees["_test"].classes != trees[""].classes:
        odd = set(trees["_test"].classes) ^ set(trees[""].classes)
        raise UserError(f"{o.test} | expected the classes of {o.folder}, these are in one only: {sorted(odd)[:5]}"
                        " | try: a folder for each class in both")
    return trees


def _block(ranks, files, size):
    """[(pixels or None, what is wrong or None)] of files, each decoded by one rank; on the first rank."""
    mine = [_attempt(path, size) for path, _ in files[ranks.rank::ranks.size]]
    parts = ranks.comm.gather(mine) if ranks.size > 1 else [mine]
    return [parts[i % ranks.size][i // ranks.size] for i in range(len(files))] if ranks.rank == 0 else []


def _write(partial, suffix, files, results, damaged, say):
    """Write what could be decoded, and say what not. Raises UserError if that is fatal."""
    for _, wrong in results:
        if wrong:
            say(f"skipped: {wrong}")
    if damaged == "fatal" and any(wrong for _, wrong in results):
        raise UserError(f"{next(wrong for _, wrong in results if wrong)} | try: --damaged skip, or without it")
    kept = [(pixels, label) for (pixels, _), (_, label) in zip(results, files, strict=True) if pixels is not None]
    partial.append(suffix, [pixels for pixels, _ in kept], [label for _, label in kept], len(files))


def pack(ranks, o):
    """Pack on all ranks; see the module. Raises UserError."""
    console = Console(quiet=ranks.rank > 0, highlight=False, soft_wrap=True,
                      force_terminal=launcher_on_terminal() or None)
    trees = ranks.bcast(ranks.agree(lambda: _trees(o) if ranks.rank == 0 else None))
    partial = Partial(o.out, o.size, trees)
    done = ranks.bcast(ranks.agree(lambda: partial.begin(trees) if ranks.rank == 0 else None))
    with Progress(console=console, transient=True, disable=console.quiet) as bar:
        for suffix, tree in trees.items():
            empty = set(range(len(tree.classes))) - {number for _, number in tree.files}
            for number in sorted(empty):
                name = printable(tree.folder / tree.classes[number])
                bar.console.print(f"no images in {name}: its class stays empty")
            task = bar.add_task(str(tree.folder), total=len(tree.files), completed=done[suffix])
            step = BLOCK * ranks.size
            for start in range(done[suffix], len(tree.files), step):
                files = tree.files[start:start + step]
                ranks.where = f"images {start} to {start + len(files) - 1} of {tree.folder}"
                results = _block(ranks, files, o.size)
                ranks.agree(lambda: _write(partial, suffix, files, results, o.damaged, bar.console.print)  # noqa: B023
                            if ranks.rank == 0 else None)
                bar.advance(task, len(files))
    if ranks.rank == 0:
        classes = trees[""].classes
        count, skipped = partial.finish(classes)
        console.print(f"{o.out}: {count:,} training images of {len(classes)} classes, {skipped} files skipped")


def parser():
    """All options."""
    p = Parser(prog="python -m mpilayer.data", description="Prepare data; also under mpiexec.")
    commands = p.add_subparsers(dest="command", required=True)
    one = commands.add_parser("pack", help="images to an HDF5 file", description=__doc__)
    one.add_argument("folder", type=Path, metavar="IMAGES", help="training images: a folder with one for each class, or"
                     " archives, as in 'train-*.tar' (KEY.jpg, KEY.cls) or 'train-*.parquet' (image, label)")
    one.add_argument("out", type=Path, help="the file to write, OUT.h5")
    one.add_argument("--test", type=Path, metavar="IMAGES", help="test images, of the same classes")
    one.add_argument("--size", type=count, default=256, help="pixels of a side (default: 256)")
    one.add_argument("--damaged", choices=("skip", "fatal"), default="skip",
                     help="files that cannot be decoded: report and go on, or stop (default: skip)")
    return p


def _checked(argv):
    o = parser().parse_args(argv)
    if o.out.exists():
        raise UserError(f"{o.out} | is there already | try: another name, or deleting it")
    if not os.access(o.out.absolute().parent, os.W_OK):
        raise UserError(f"{o.out.absolute().parent} | is no folder to write to | try: another OUT")
    return o


def main(argv):
    """Entry point."""
    with contextlib.suppress(UserError):
        parser().parse_args(argv)  # --help ends here, without MPI
    with job() as ranks:
        pack(ranks, ranks.agree(lambda: _checked(argv)))
