"""Files that are either whole or not there."""

import contextlib
import os
import tempfile


@contextlib.contextmanager
def replacing(path):
    """A text file to write; it takes the place of `path` when the block ends well, and vanishes when it does not."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
