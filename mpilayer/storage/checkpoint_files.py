"""The files of checkpoints: a folder for each, with a file for each rank and a manifest; whole, or passed over.

    FOLDER/000007/rank-0.npz     arrays of rank 0, its share of those that are equal on all ranks, and its values
    FOLDER/000007/manifest.json  what the run is, and size and SHA-256 of every file
    FOLDER/.000008/              one that is being written, or was when the run was killed
"""

import hashlib
import json
import os
import re
import shutil
import tempfile

import numpy as np

from mpilayer.base.errors import UserError
from mpilayer.base.files import lock, synchronize

FORMAT, VERSION = "mpilayer checkpoint", 1
MANIFEST = "manifest.json"
VALUES, PIECE = "values", "equal"  # what a rank's file has beside its arrays, which begin with ARRAY
ARRAY = "own/"


class DamagedError(Exception):
    """A checkpoint that is not whole."""


def prepare(folder):
    """Make the folder, see that files can be written there, and lock it; the descriptor holds the lock. What a killed
    run has left half-written is removed. Raises UserError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        descriptor = lock(folder)
    except BlockingIOError:
        raise UserError(f"another run writes checkpoints to {folder} | try: another folder") from None
    except OSError as error:
        raise UserError(f"cannot write checkpoints to {folder} ({error.strerror}) | try: another folder") from None
    for entry in folder.iterdir():
        if re.fullmatch(r"\.\d{6,}", entry.name):
            shutil.rmtree(entry, ignore_errors=True)
    return descriptor


def numbers(folder):
    """Of the checkpoints in a folder, whole or not, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((int(entry.name) for entry in folder.iterdir() if re.fullmatch(r"\d{6,}", entry.name)), reverse=True)


def place(folder, number, *, partial=False):
    """The path of a checkpoint."""
    return folder / f"{'.' if partial else ''}{number:06d}"


def rank_file(path, rank):
    """The path of a rank's file."""
    return path / f"rank-{rank}.npz"


def write_rank(path, rank, piece, own, values):
    """Write a rank's file, with `values` as JSON; its {"bytes", "sha256"}. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True)
    file = rank_file(path, rank)
    own = {f"{ARRAY}{name}": array for name, array in own.items()}
    np.savez(file, **{VALUES: np.frombuffer(values.encode(), np.uint8), PIECE: piece}, **own)
    synchronize(file)
    return {"bytes": file.stat().st_size, "sha256": _digest(file)}


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed(manifest):
    """The digest of a manifest's contents."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def publish(folder, number, manifest, keep):
    """Make a checkpoint visible, all of whose ranks' files have been written; remove all but the newest `keep`. Raises
    OSError.
    """
    partial, final = place(folder, number, partial=True), place(folder, number)
    for rank, known in enumerate(manifest["files"]):
        file = rank_file(partial, rank)
        if not file.is_file() or file.stat().st_size != known["bytes"]:
            raise OSError(0, f"{file.name} is not there; all hosts must share the folder")
    manifest = {"format": FORMAT, "version": VERSION, **manifest}
    with open(partial / MANIFEST, "w") as file:
        json.dump({**manifest, "sha256": _sealed(manifest)}, file, indent=1)
    synchronize(partial / MANIFEST)
    synchronize(partial)
    os.rename(partial, final)
    synchronize(folder)
    for old in numbers(folder)[keep:]:
        shutil.rmtree(place(folder, old), ignore_errors=True)


def discard(folder, number):
    """Remove what has been written of a checkpoint."""
    shutil.rmtree(place(folder, number, partial=True), ignore_errors=True)


def read_manifest(path):
    """Of a checkpoint. Raises DamagedError; UserError for a version that this program does not know."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        seal = manifest.pop("sha256")
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read ({error})") from None
    if manifest.get("version") != VERSION:
        raise UserError(f"{path} | version {manifest.get('version')} of {FORMAT} | expected {VERSION}"
                        " | try: the mpilayer that wrote it, or another folder")
    if _sealed(manifest) != seal:
        raise DamagedError(f"{MANIFEST} has changed")
    return manifest


def read_rank(path, rank, known):
    """(piece, own, values) of a rank's file, of which {"bytes", "sha256"} are known. Raises DamagedError."""
    file = rank_file(path, rank)
    try:
        if file.stat().st_size != known["bytes"] or _digest(file) != known["sha256"]:
            raise DamagedError(f"{file.name} has changed")
        with np.load(file) as found:
            own = {name.removeprefix(ARRAY): found[name] for name in found.files if name.startswith(ARRAY)}
            return found[PIECE], own, json.loads(bytes(found[VALUES]))
    except OSError as error:
        raise DamagedError(f"{file.name} cannot be read ({error.strerror})") from None
