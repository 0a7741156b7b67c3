"""Arrays of the ranks of a node that all of them see: the pages of each become pages of one file."""

import ctypes
import mmap
import os

import numpy as np

from kernels.gpu import address, is_array
from kernels.layout import HUGE
from mpilayer.base.errors import UserError
from mpilayer.mpi.node_file import unnamed_memory

LARGE_PAGES = 14  # of Linux's madvise
MAP_FIXED, FAILED = 0x10, ctypes.c_void_p(-1).value  # of C's mmap, on Linux and macOS
REMEDY = "try: reduction native, or more shared memory (a container's --shm-size)"

_map = ctypes.CDLL(None).mmap
_map.restype = ctypes.c_void_p
_map.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
_advise = ctypes.CDLL(None).madvise  # whose answer does not matter
_advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def _whole(size, page=mmap.PAGESIZE):
    """Bytes of the pages that hold so many."""
    return -(-size // page) * page


def _has_pages_of_its_own(array):
    """Whether it is all that kernels.pages gave."""
    memory = getattr(array.base, "obj", None)
    return isinstance(memory, mmap.mmap) and len(memory) == array.nbytes + (HUGE if array.nbytes >= HUGE else 0)


def _exchange(begin, size, flags, descriptor=-1, offset=0):
    """Let pages be found at an address from here on, instead of those that are there."""
    found = _map(begin, size, mmap.PROT_READ | mmap.PROT_WRITE, flags | MAP_FIXED, descriptor, offset)
    if found == FAILED:
        raise UserError(f"{size:,} bytes of memory cannot be shared by the ranks of this machine | {REMEDY}")
    _advise(begin, size, LARGE_PAGES)


class CommonMemory:
    """One array of each rank of a node, all of one size, as rows of memory that they all see; made by them together.

    array    made by kernels.pages. It stays where it is, with its numbers; so do views of it
    rows     address of the first rank's                     stride   bytes from one to the next

    Raises UserError, on all ranks, for memory of another kind, and where the node has no room for it.
    """

    def __init__(self, ranks, array):
        ranks.agree(lambda: self._check(array))
        self.begin, self.size, self.pages = address(array), array.nbytes, _whole(array.nbytes)
        self.stride = _whole(array.nbytes, HUGE) if array.nbytes >= HUGE else self.pages
        descriptor = unnamed_memory(ranks, ranks.node.size * self.stride)
        ranks.agree(lambda: self._check_room(descriptor))
        self.array, self._memory = array, mmap.mmap(descriptor, ranks.node.size * self.stride)
        self.rows = np.frombuffer(self._memory, np.uint8).ctypes.data
        _advise(self.rows, len(self._memory), LARGE_PAGES)
        ranks.agree(lambda: self._move_in(descriptor, ranks.node.rank * self.stride))  # before anybody writes there
        os.close(descriptor)

    def _move_in(self, descriptor, row):
        ctypes.memmove(self.rows + row, self.begin, self.size)
        _exchange(self.begin, self.pages, mmap.MAP_SHARED, descriptor, row)

    @staticmethod
    def _check(array):
        if is_array(array) or not _has_pages_of_its_own(array):
            raise UserError("reduction levels | expected gradients in this computer's memory, made by kernels.pages"
                            " | try: reduction native")

    def _check_room(self, descriptor):
        if descriptor is None:
            raise UserError(f"reduction levels | no room for {self.size:,} bytes of each rank in this machine's shared"
                            f" memory | {REMEDY}")

    def __contains__(self, part):
        return self.begin <= address(part) < self.begin + self.size

    def row(self, part):
        """Where a part of the array begins in the first rank's."""
        return self.rows + address(part) - self.begin

    def Free(self):  # noqa: N802 - named as what mpi4py frees
        """The array is this rank's own again, with the numbers that it has."""
        kept = self.array.copy()
        _exchange(self.begin, self.pages, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.array[:] = kept
