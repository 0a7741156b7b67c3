"""Sums in memory that the ranks of a node share, and between nodes, where there are several, by the MPI.

The ranks of a node have one gradient each, and all of them see all of these. When all have come to a message, each of
them adds up its part, in rank order, and writes the sum to the place of each rank's numbers. Of several nodes, the
ranks that have the same part sum it over the nodes first: a node's link carries each number once, however many ranks
it has.
"""

import functools
import os

import numpy as np
from numba import cfunc, types

import kernels
from kernels.gpu import address
from mpilayer.base.errors import UserError
from mpilayer.mpi import ulfm
from mpilayer.mpi.collectives import Native
from mpilayer.mpi.common_memory import CommonMemory
from mpilayer.mpi.engine import Operation
from mpilayer.mpi.intrinsics import count, load, store
from mpilayer.mpi.node_file import unnamed_memory

LINE = 64  # bytes: where parts begin, and counters
COUNTERS = 1 << 10  # lines of them that are made at a time
COUNTER, TARGET, RANKS = range(0, 24, 8)  # bytes from the beginning of a ticket
SECOND = 8  # bytes from a message's first counter to its second


@functools.cache
def _arrive():
    """The C function by which a rank says that it has come so far: its ticket's counter and target go up."""
    @cfunc(types.int32(types.int64), cache=True)
    def arrive(ticket):
        store(ticket + TARGET, load(ticket + TARGET) + load(ticket + RANKS))
        count(load(ticket + COUNTER))
        return 0

    return arrive


@functools.cache
def _all_came():
    """The C function that says whether all ranks have, with MPI_Test's arguments."""
    @cfunc(types.int32(types.int64, types.int64, types.int64), cache=True)
    def all_came(ticket, flag, status):
        store(flag, load(load(ticket + COUNTER)) >= load(ticket + TARGET))
        return 0

    return all_came


def missing(ranks):
    """Why these ranks cannot sum so, in words, or None; all of them call this together."""
    if not ranks.all(ranks.node.size == ranks.most(ranks.node.size)):
        return "nodes have different numbers of ranks | expected as many on each"
    if ulfm.missing(ranks.MPI) is None:
        return "who waits in shared memory for a rank that has died would not be told so"
    descriptor = unnamed_memory(ranks, LINE)
    if descriptor is None:
        return "the ranks of a node cannot share memory"
    os.close(descriptor)
    return None


class Levels(Native):
    """Of arrays made by kernels.pages. Raises UserError, on all ranks, where they cannot sum so."""

    def __init__(self, calls):
        super().__init__(calls)
        self.ranks, self.shared, self.counters = calls.ranks, [], []
        if why := missing(calls.ranks):
            raise UserError(f"reduction levels | {why} | try: reduction native")

    @staticmethod
    def warm(dtype):
        """Compile what sums of that type need."""
        Native.warm(dtype)
        kernels.ordered_sum_address(dtype)
        _arrive(), _all_came()

    def share(self, array):
        """Parts of an array will be summed. Raises UserError as CommonMemory does."""
        self.shared.append(self._common(array))

    def _common(self, array):
        found = CommonMemory(self.ranks, array)
        self.calls.made.append(found)
        return found

    def operations(self, buffer, lane):
        """Of the sum of `buffer` (n,) float32, or uint16 with bfloat16's bits. Raises TypeError for other numbers."""
        arguments, op = self.arguments(self._own(buffer))
        own, node, stride = arguments[1][0], self.ranks.node.size, self._rows(buffer).stride
        first, n, total = self._rows(buffer).row(own), own.size, kernels.ordered_sum_address(buffer.dtype)
        counter = self._counter()
        came, done = self._meeting(counter), self._meeting(counter + SECOND)
        if node == self.calls.size:
            return came, done._replace(work=(total, first, node, n, stride, first, node))
        between = self.calls.operation(lane, "Allreduce", *arguments, op=op, comm=self.calls.across(lane),
                                       work=(total, first, node, n, stride, address(own), 1))
        return came, between, done._replace(work=(total, address(own), 1, n, stride, first, node))

    def _own(self, buffer):
        """The part that this rank adds up, of whole cache lines."""
        node, numbers = self.ranks.node, LINE // buffer.itemsize
        lines = -(-buffer.size // numbers)
        first, last = (lines * place // node.size * numbers for place in (node.rank, node.rank + 1))
        return buffer[first:last]

    def _rows(self, buffer):
        """The memory that a buffer is a part of, of all ranks."""
        return next(common for common in self.shared if buffer in common)

    def _counter(self):
        """The address of two counters that no other message has; all ranks call this together."""
        if not self.counters:
            first = self._common(kernels.pages(COUNTERS * LINE // 8, np.int64)).rows  # those of the node's first rank
            self.counters = [first + LINE * number for number in range(COUNTERS)]
        return self.counters.pop()

    def _meeting(self, counter):
        """An Operation that is over when all ranks of the node have come to it."""
        ticket = np.array([counter, 0, self.ranks.node.size], np.int64)
        return Operation((_arrive().address, ticket.ctypes.data), ticket.ctypes.data, keep=(ticket,),
                         test=_all_came().address)
