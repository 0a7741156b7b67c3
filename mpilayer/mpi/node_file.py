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


def _same_file(descriptor):
    """What tells an open file from all others of this machine."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _unnamed(ranks, size):
    """The descriptor of a file of so many bytes in memory, which the node's first rank has made and the others have
    opened; None where that is not possible: in containers a process may have another number for others.
    """
    own, place = None, None
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: there are no such files on this system
        if ranks.node.rank == 0:
            own = os.memfd_create("mpilayer")
            os.ftruncate(own, size)
            place = f"/proc/{os.getpid()}/fd/{own}", _same_file(own)
    place = ranks.bcast(place, ranks.node)
    if own is not None or place is None:
        return own
    with contextlib.suppress(OSError):
        own = os.open(place[0], os.O_RDWR)
        if _same_file(own) != place[1]:
            os.close(own)
            return None
    return own


def unnamed_memory(ranks, size):
    """As `memory`, in place of memory of the ranks: of a file that no folder limits, and whose pages may be large, if
    all ranks can open such files. None, on all ranks, if some cannot share memory. All ranks call this together.
    """
    own = _unnamed(ranks, size)
    if ranks.all(own is not None):
        return own
    _close(own)
    own = None
    with contextlib.suppress(OSError, UserError):
        own = memory(ranks, size)
    if ranks.all(own is not None):
        return own
    _close(own)
    return None


def _close(descriptor):
    if descriptor is not None:
        os.close(descriptor)
