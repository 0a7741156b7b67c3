"""Images that come in archives, for packing: tar files as WebDataset has them, and Parquet files as Hugging Face has.

They stay in the order in which they come: who writes such files mixes the samples.
"""

import functools
import glob
import io
import json
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from mpilayer.base.errors import UserError

TAR, PARQUET = ".tar", ".parquet"
COLUMNS = {"image": ("image", "img"), "label": ("label", "labels", "fine_label")}  # what they are called, mostly


class Member(NamedTuple):
    """Of a tar file: `size` bytes at `offset`."""

    path: str
    name: str
    offset: int
    size: int

    def __str__(self):
        return f"{self.path}: {self.name}"

    def open(self):
        """Its bytes, as a file."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))


class Cell(NamedTuple):
    """Of a Parquet file: row `row` of a row group, in a column."""

    path: str
    group: int
    row: int
    column: str

    def __str__(self):
        return f"{self.path}: row {self.row} of group {self.group}"

    def open(self):
        """Its bytes, as a file."""
        value = _group(self.path, self.group, self.column)[self.row].as_py()
        return io.BytesIO(value["bytes"] if isinstance(value, dict) else value)


@functools.lru_cache(2)
def _group(path, group, column):
    return parquet().ParquetFile(path).read_row_group(group, [column]).column(0)


def parquet():
    """pyarrow's reader. Raises UserError without it."""
    try:
        from pyarrow import parquet as found
    except ImportError:
        raise UserError("Parquet files need pyarrow | try: pip install 'mpilayer[parquet]'") from None
    return found


def is_pattern(text):
    """Whether a name stands for archives."""
    return text.endswith((TAR, PARQUET))


def scan(pattern, suffixes):
    """(names of the classes, [(Member or Cell, class)]) of the files that match a pattern, as in train-*.tar. Raises
    UserError.
    """
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise UserError(f"{pattern} | there is no such file | try: quotes around a pattern")
    try:
        names, files = _of_tars(paths, suffixes) if pattern.endswith(TAR) else _of_parquet(paths)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise UserError(f"{pattern} | cannot be read: {error} | try: other files") from None
    if not files:
        raise UserError(f"{pattern} | expected images with classes, found none in {len(paths)} files"
                        " | try: KEY.jpg with KEY.cls, the number of its class, for each")
    return names or [str(number) for number in range(1 + max(number for _, number in files))], files


def _of_tars(paths, suffixes):
    """A sample is files of one name but for what follows the first dot: an image, and the number of its class."""
    files = []
    for path in paths:
        samples = defaultdict(dict)
        with tarfile.open(path) as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                if member.isfile() and f".{suffix.lower()}" in suffixes:
                    samples[folder, key]["image"] = Member(path, member.name, member.offset_data, member.size)
                elif suffix == "cls":
                    samples[folder, key]["class"] = int(archive.extractfile(member).read())
        files += [(each["image"], each["class"]) for each in samples.values() if len(each) == 2]
    return None, files


def _of_parquet(paths):
    """A row is a sample: a column of images, as bytes or {bytes, path}, and one of the numbers of their classes."""
    files, names = [], None
    for path in paths:
        table = parquet().ParquetFile(path)
        image, label = (_column(table, path, what) for what in COLUMNS)
        features = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = features.get("info", {}).get("features", {}).get(label, {}).get("names") or names
        for group in range(table.num_row_groups):
            labels = table.read_row_group(group, [label]).column(0).to_pylist()
            files += [(Cell(path, group, row, image), number) for row, number in enumerate(labels)]
    return names, files


def _column(table, path, what):
    there = table.schema_arrow.names
    found = next((name for name in COLUMNS[what] if name in there), None)
    if found is None:
        raise UserError(f"{Path(path)} | expected a column {' or '.join(COLUMNS[what])}, found {', '.join(there)}"
                        " | try: renaming one")
    return found
