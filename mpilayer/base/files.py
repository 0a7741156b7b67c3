"""Files that are either whole or not there."""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path


@contextlib.contextmanager
def replaced(path):
    """The path of a file to write, which takes the place of `path` when the block ends well, and vanishes when it does
    not.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    try:
        yield Path(temporary)
        synchronize(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # a signal may come when it has taken its place
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def replacing(path):
    """A text file to write, as `replaced`."""
    with replaced(path) as temporary, open(temporary, "w") as file:
        yield file


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
