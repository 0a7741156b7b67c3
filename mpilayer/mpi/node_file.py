"""A file that all ranks of a node have open, and nobody else."""

import contextlib
import os
import tempfile


def open_together(ranks, make, flags=os.O_RDWR):
    """The descriptor, on each rank of a node, of the file that make(path) makes on one of them.

    All ranks of the node call this together. The file has lost its name when it returns, so that nothing is left
    behind, however the ranks end.
    """
    first = ranks.node.rank == 0
    with tempfile.TemporaryDirectory(prefix="mpilayer-") if first else contextlib.nullcontext("") as folder:
        path = os.path.join(folder, "file")
        if first:
            make(path)
        descriptor = os.open(ranks.bcast(path, ranks.node), flags)
        ranks.meet(ranks.node)
    return descriptor
