"""Data in memory, one copy for all ranks of a node."""

import mmap
import os

import numpy as np

from mpilayer.base.errors import UserError
from mpilayer.mpi.node_file import memory


def _locked(array):
    array.flags.writeable = False
    return array


def _loaded(load):
    """(array, None), or (None, what is wrong) of load()."""
    try:
        return np.ascontiguousarray(load()), None
    except UserError as failure:
        return None, str(failure)
    except MemoryError as failure:
        return None, f"not enough memory for the data: {failure} | try: fewer ranks on a machine"


def _memory(ranks, size):
    """So many bytes that all ranks of a node share; None if the shared memory of the node has no room for them."""
    descriptor = memory(ranks, size)
    if descriptor is None:
        return None
    try:
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def hold(load, ranks=None):
    """The array that load() returns, read-only; None where a node has too little shared memory for it.

    With `ranks` (mpilayer.Ranks) one rank of each node calls load(), into memory that the ranks of the node share. All
    ranks call this together; an error of load() is raised on all of them, as AgreedError.
    """
    if ranks is None or ranks.size == 1:
        return _locked(load())
    array, failure = _loaded(load) if ranks.node.rank == 0 else (None, None)

    def succeeded():
        if failure:
            raise UserError(failure)

    ranks.agree(succeeded)
    if ranks.node.size == 1:
        return _locked(array)
    shape, kind = ranks.bcast(None if array is None else (array.shape, array.dtype.str), ranks.node)
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    shared = _memory(ranks, size)
    if shared is None:
        return None
    common = np.frombuffer(shared, kind).reshape(shape)
    if ranks.node.rank == 0:
        common[...] = array
    ranks.meet(ranks.node)
    return _locked(common)
