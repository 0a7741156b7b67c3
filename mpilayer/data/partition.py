"""Which samples are the effective batch of a step, and which part of it a rank computes."""

import numpy as np

from mpilayer.data.source import integer, require

TOGETHER = 16  # blocks whose samples are mixed


def batches(n, size, *, seed, epoch, block=None):
    """The epoch's effective batches: (n // size, size) int64, indices of `n` samples, none of them twice.

    They depend on the arguments alone, never on the number of ranks. The n % size samples that are left over differ
    from epoch to epoch. With `block`, samples are mixed that are in TOGETHER blocks of so many neighbours, then those
    of the next ones: blocks come at random, so that a disk has much to read at one place. Raises DataError if `size`
    exceeds `n`.
    """
    n, size = integer("batches", "n", n, 1), integer("batches", "size", size, 1)
    seed, epoch = integer("batches", "seed", seed, 0), integer("batches", "epoch", epoch, 0)
    require(size <= n, "batches", f"expected a batch of at most {n}, the number of samples, got {size}",
             "a smaller batch or more data")
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(n) if block is None else _by_blocks(n, integer("batches", "block", block, 1), rng)
    return order[:n - n % size].reshape(-1, size)


def _by_blocks(n, block, rng):
    """The indices of `n` samples, those of the first TOGETHER blocks mixed, then those of the next."""
    turn = rng.permutation(-(-n // block)) // TOGETHER
    return np.lexsort((rng.random(n), turn[np.arange(n) // block]))


def share(size, rank, ranks):
    """The slice of an effective batch of `size` samples that `rank` of so many computes; lengths differ by one at most.

    It may be empty. Raises DataError.
    """
    size, ranks = integer("share", "size", size, 0), integer("share", "ranks", ranks, 1)
    rank = integer("share", "rank", rank, 0)
    require(rank < ranks, "share", f"expected rank in 0..{ranks - 1}, got {rank}", "comm.rank")
    return slice(size * rank // ranks, size * (rank + 1) // ranks)
