"""A file that all ranks of a node have open, and nobody else; also one that lies in memory."""

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


def memory(ranks, size):
    """The descriptor of a file of so many bytes in the node's memory; None if it has no room for them.

    All ranks of the node call this together. Raises UserError, on all of them, if there can be no such file.
    """
    def make(path):
        with open(path, "wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, size)  # what is missing is noticed now, and not as a bus error later

    descriptor = open_together(ranks, make)
    if os.fstat(descriptor).st_size == size:
        return descriptor
    os.close(descriptor)
    return None


def unnamed_memory(ranks, size):
    """As `memory`, in place of memory of the ranks: of a file that no folder limits, and whose pages may be
    large ones, where all ranks can open such files. All ranks call this together.
    """
    first = ranks.node.rank == 0
    own = None
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: not on this system
        own = os.memfd_create("mpilayer") if first else None
    path = ranks.bcast(own and f"/proc/{os.getpid()}/fd/{own}", ranks.node)
    with contextlib.suppress(OSError):
        own = own or (path and os.open(path, os.O_RDWR))
    everywhere = ranks.all(own)
    if everywhere and first:
        os.ftruncate(own, size)
    elif own and not everywhere:
        os.close(own)
    return own if everywhere else memory(ranks, size)
