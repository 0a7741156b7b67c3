"""Data in memory, one copy for all ranks of a node."""

import numpy as np

from mpilayer.base.errors import UserError


def _alone(load):
    array = load()
    array.flags.writeable = False
    return array, lambda: None


def _loaded(load):
    """(array, None), or (None, the error) of load()."""
    try:
        return load(), None
    except UserError as failure:
        return None, failure
    except MemoryError as failure:
        return None, UserError(f"not enough memory for the data: {failure} | try: fewer ranks on a machine")


def hold(load, ranks=None):
    """(the array that load() returns, read-only; a function that frees it).

    With `ranks` (mpilayer.Ranks) one rank of each node calls load(), into memory that the ranks of the node share; an
    error of load() is raised on all of them. All ranks of a node call this together, and later the function.
    """
    if ranks is None or ranks.node.size == 1:
        return _alone(load)
    array, failure = _loaded(load) if ranks.node.rank == 0 else (None, None)
    failure, shape, kind = ranks.bcast(
        (failure, None, None) if array is None else (None, array.shape, array.dtype.str), ranks.node)
    if failure:
        raise failure
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    window = ranks.MPI.Win.Allocate_shared(size if ranks.node.rank == 0 else 0, 1, comm=ranks.node)
    common = np.frombuffer(window.Shared_query(0)[0], np.uint8)[:size].view(kind).reshape(shape)
    if ranks.node.rank == 0:
        common[...] = array
    ranks.meet(ranks.node)
    common.flags.writeable = False
    return common, window.Free
