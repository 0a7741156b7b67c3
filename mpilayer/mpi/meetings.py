"""What all ranks do together: give each other values, and agree."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mpilayer.base.errors import AgreedError, UserError

if TYPE_CHECKING:
    from mpi4py import MPI

PIECE = 1 << 28  # numbers that are broadcast at a time: MPI 3 counts with an int


class Meetings:
    """The base of Ranks, which has `comm`, `rank`, `size`, and wait()."""

    def gather(self, value: Any) -> list[Any]:
        """A list of every rank's value, any Python object, in the order of ranks; on every rank."""
        mine = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self.wait(self.comm.Iallgather(np.array([mine.size]), sizes))
        everything = np.empty(sizes.sum(), np.uint8)
        self.wait(self.comm.Iallgatherv(mine, [everything, sizes]))
        return [pickle.loads(part) for part in np.split(everything, np.cumsum(sizes)[:-1])]

    def gather_to_first(self, value: Any) -> list[Any] | None:
        """The same on the first rank; None on the others. What is None takes next to nothing on the way."""
        mine = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.empty(self.size if self.rank == 0 else 0, np.int64)
        self.wait(self.comm.Igather(np.array([mine.size]), sizes))
        everything = np.empty(sizes.sum(), np.uint8)
        self.wait(self.comm.Igatherv(mine, [everything, sizes] if self.rank == 0 else None))
        if self.rank > 0:
            return None
        return [pickle.loads(part) for part in np.split(everything, np.cumsum(sizes)[:-1])]

    def bcast(self, value: Any, comm: MPI.Intracomm | None = None, root: int = 0) -> Any:
        """The value, any Python object, that the first rank has, or rank `root`; on every rank of `comm`, by default of
        all.
        """
        comm = comm or self.comm
        mine = np.frombuffer(pickle.dumps(value if comm.rank == root else None), np.uint8).copy()
        size = np.array([mine.size])
        self.wait(comm.Ibcast(size, root))
        mine = mine if comm.rank == root else np.empty(size[0], np.uint8)
        self.wait(comm.Ibcast(mine, root))
        return pickle.loads(mine)

    def broadcast(self, array: np.ndarray, root: int = 0) -> None:
        """Give all ranks the numbers that one of them has in a contiguous array."""
        flat = array.reshape(-1)
        for begin in range(0, flat.size, PIECE):
            self.wait(self.comm.Ibcast(flat[begin:begin + PIECE], root), "the first rank's numbers")

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum a float64 array over the ranks, in place, on every rank; the array."""
        self.wait(self.comm.Iallreduce(self.MPI.IN_PLACE, values))
        return values

    def most(self, number: float) -> float:
        """The largest of the ranks' numbers, on every rank."""
        found = np.array([number], np.float64)
        self.wait(self.comm.Iallreduce(self.MPI.IN_PLACE, found, op=self.MPI.MAX))
        return float(found[0])

    def all(self, good: Any) -> bool:
        """Whether it is true on all ranks."""
        return not self.any(not good)

    def any(self, good: Any) -> bool:
        """Whether it is true on any rank."""
        return self.most(bool(good)) > 0

    def least(self, number: float) -> float:
        """The smallest of the ranks' numbers, on every rank."""
        return -self.most(-number)

    def first_where(self, true: Any) -> int | None:
        """The lowest rank on which it is true, on every rank; None if there is none."""
        rank = int(self.least(self.rank if true else self.size))
        return rank if rank < self.size else None

    def agree(self, action: Callable[[], Any]) -> Any:
        """The result of action(), which every rank calls. If it raises UserError on any rank, all ranks raise
        AgreedError, with the message of the lowest of those.
        """
        result, error = None, None
        try:
            result = action()
        except UserError as failure:
            error = str(failure)
        rank = self.first_where(error is not None)
        if rank is not None:
            message, everywhere = self.bcast(error, root=rank), self.all(error is not None)
            raise AgreedError(message if everywhere else f"rank {rank} | {message}")
        return result
