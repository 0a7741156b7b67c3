"""Files that are either whole or not there."""

import contextlib
import fcntl
import os
import secrets
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replaced(path):
    """The path of a file to write, which takes the place of `path` when the block ends well, and vanishes when it does
    not.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    with _or_nothing(temporary):
        yield Path(temporary)
        synchronize(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)


@contextlib.contextmanager
def _or_nothing(temporary):
    """A block after whose failure the file is not there."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # a signal may come when it has taken its place
            os.unlink(temporary)
        raise


def _nameless(folder):
    """A descriptor of a new file in it that has no name; None where the file system has no such files."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY)
    except OSError:  # if it is not that, the next attempt says so
        return None


@contextlib.contextmanager
def replacing(path):
    """A text file to write, as `replaced`; where that is possible it has no name until it is whole, so that a process
    which is killed leaves nothing behind.
    """
    handle = _nameless(path.parent)
    if handle is None:
        with replaced(path) as temporary, open(temporary, "w") as file:
            yield file
        return
    with open(handle, "w") as file:
        yield file
        file.flush()
        os.fchmod(handle, 0o644)
        os.fsync(handle)
        temporary = path.parent / f".{path.name}-{secrets.token_hex(4)}"
        with _or_nothing(temporary):
            os.link(f"/proc/self/fd/{handle}", temporary, src_dir_fd=handle)  # so that Python's call follows the link
            os.replace(temporary, path)


def lock(folder):
    """A descriptor of the folder; as long as it is open, nobody else gets one. Raises BlockingIOError if somebody has
    one, OSError for a folder that cannot be opened. A file system without locks gives one to everybody.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        pass
    return descriptor


def synchronize(path):
    """Return when what was written to a file, or into a folder, survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
