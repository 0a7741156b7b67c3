"""A file that all ranks of a node have open, and nobody else."""

import contextlib
import os
import tempfile

from mpilayer.base.errors import UserError

PLACES = "/dev/shm", None  # memory; else where temporary files go


def _folder():
    """A new temporary folder. Raises UserError."""
    for place in PLACES:
        with contextlib.suppress(OSError):
            return tempfile.TemporaryDirectory(prefix="mpilayer-", dir=place)
    raise UserError("no folder for temporary files can be written to | try: TMPDIR=FOLDER, one on this machine")


def open_together(ranks, make, flags=os.O_RDWR):
    """The descriptor, on each rank of a node, of the file that make(path) makes on one of them.

    All ranks of the node call this together. The file has lost its name when it returns, so that nothing is left
    behind, however the ranks end. Raises UserError, on all of them, if it cannot be made.
    """
    with contextlib.ExitStack() as stack:
        path, failure = "", None
        if ranks.node.rank == 0:
            try:
                path = os.path.join(stack.enter_context(_folder()), "file")
                make(path)
            except (OSError, UserError) as error:
                failure = f"a file that the ranks of this machine share cannot be made: {error}"
        path, failure = ranks.bcast((path, failure), ranks.node)
        if failure:
            raise UserError(failure)
        try:
            return os.open(path, flags)
        finally:
            ranks.meet(ranks.node)
