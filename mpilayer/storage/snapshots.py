"""Checkpoints in the memory of the ranks, for those that go on when others have died.

What is equal on all ranks, each has. What is a rank's own, its neighbour, the next rank, has as well. The last two are
kept: when one is complete on any rank, the one before is complete on all.
"""

import json
import math
import pickle
import time

import numpy as np

from kernels.gpu import fetch
from mpilayer.base.errors import AgreedError
from mpilayer.storage import equal_arrays as equal
from mpilayer.storage.loaded import Loaded

SHARE = 0.01  # of the time, at most, that snapshots may take
LEAST, MOST = 5, 1000  # steps from one to the next


def _moved(ranks, sent, source):
    """What rank `source`, or None, sends to this one; `sent` {rank: value} goes to others."""
    requests, sizes = [], {}
    for rank, value in sent.items():
        data = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes[rank] = np.array([data.size])
        requests += [ranks.comm.Isend(sizes[rank], rank), ranks.comm.Isend(data, rank)]
    size, data = np.zeros(1, np.int64), None
    if source is not None:
        ranks.wait(ranks.comm.Irecv(size, source), "a snapshot of a neighbour")
        data = np.empty(size[0], np.uint8)
        ranks.wait(ranks.comm.Irecv(data, source), "a snapshot of a neighbour")
    for request in requests:
        ranks.wait(request, "a neighbour that takes a snapshot")
    return None if data is None else pickle.loads(data)


class Snapshot:
    """Of a rank, number `rank` of `ranks` when it was made.

    equal      bytes (n,) of what is equal on all ranks      own     {rank: (arrays, values)} of this and the one before
    manifest   as of Checkpoints                             first   the values of rank 0
    """

    def __init__(self, number, rank, ranks, equal_bytes, manifest):
        self.number, self.rank, self.ranks, self.equal, self.manifest = number, rank, ranks, equal_bytes, manifest
        self.own, self.first = {}, None


class Snapshots:
    """The snapshots of a run. All ranks make it, and call its methods, together.

    every   steps from one to the next; None: as many as keep what they cost below SHARE of the time
    """

    def __init__(self, ranks, every=None):
        self.ranks, self.given, self.kept = ranks, every, []
        self.every, self.due, self.count, self.last = every or LEAST, 0, 0, (0, time.monotonic())

    def is_due(self, done):
        """Whether the next one is, when so many steps of the run have been made."""
        return done >= self.due

    def save(self, state, **values):
        """Keep a State and this rank's values, that JSON could hold. When this returns the State may change."""
        begin, ranks = time.monotonic(), self.ranks
        spare = self.kept.pop(0).equal if len(self.kept) == 2 else None
        size = sum(array.nbytes for array in state.equal.values())
        manifest = {"equal": equal.table(state.equal), "ranks": ranks.size}
        made = Snapshot(self.count, ranks.rank, ranks.size, equal.piece(state.equal, 0, size, spare), manifest)
        told = json.loads(json.dumps({**values, "state": state.values}))  # a copy, for they may change
        mine = {name: np.array(fetch(array)) for name, array in state.own.items()}, told
        before = (ranks.rank - 1) % ranks.size
        made.own = {before: self._exchange(mine, before), ranks.rank: mine}
        made.first = ranks.bcast(told)
        done = values["run"]["step"]
        steps, since = done - self.last[0], begin - self.last[1]
        seconds = ranks.most(time.monotonic() - begin)  # it is complete here, if so
        self.kept.append(made)
        self.count += 1
        self._plan(done, seconds, ranks.most(since / steps if steps > 0 else 0.0))

    def _exchange(self, mine, before):
        """What the rank before has sent of its own; mine goes to the one behind."""
        behind = (self.ranks.rank + 1) % self.ranks.size
        return _moved(self.ranks, {behind: mine}, before)

    def _plan(self, done, seconds, step):
        """When the next one is due; all ranks come to the same."""
        if self.given is None and step > 0:
            self.every = min(MOST, max(LEAST, math.ceil(seconds / (SHARE * step))))
        self.due, self.last = done + self.every, (done, time.monotonic())

    def newest(self):
        """The newest that all ranks have, as Loaded, for ranks of which some have died since; those that have taken
        their places get it from the others. None if no rank has any. Raises AgreedError if what one of the dead had of
        its own is lost, for its neighbour has died, too.
        """
        ranks = self.ranks
        newest = [number for number in ranks.gather(self.kept[-1].number if self.kept else None) if number is not None]
        found = next((each for each in self.kept if newest and each.number == min(newest)), None)
        everyone = ranks.gather(found and (found.rank, found.ranks, found.manifest, found.first, self.every))
        living = [each and each[0] for each in everyone]
        first = next((rank for rank, each in enumerate(everyone) if each), None)
        if first is None:
            return None
        _, size, manifest, values, self.every = everyone[first]
        holders = [_holder(rank, size, living) for rank in range(size)]
        if None in living:
            found = self._shared(found, first, living, holders, min(newest), size, manifest, values)
        self.kept, self.count = [found], min(newest) + 1
        self.last = values["run"]["step"], time.monotonic()  # what was lost since tells nothing of the time of a step
        return LoadedSnapshot(ranks, found, holders)

    def _shared(self, found, first, living, holders, number, size, manifest, values):
        """The snapshot `found`, on ranks that had none as well: rank `first` has what is equal, `holders` the rest."""
        ranks, new = self.ranks, found is None
        if new:
            found = Snapshot(number, ranks.rank, size, np.empty(equal.size_of(manifest["equal"]), np.uint8), manifest)
            found.first = values
        ranks.broadcast(found.equal, first)
        if ranks.size == size:  # each has the place of one that has died
            sent = {rank: found.own[rank] for rank, was in enumerate(living)
                    if was is None and holders[rank] == ranks.rank}
            own = _moved(ranks, sent, holders[ranks.rank] if new else None)
            found.own |= {ranks.rank: own} if new else {}
        return found


def _holder(rank, size, living):
    """The number that the rank now has which has what was rank's own. Raises AgreedError if that has died, too."""
    for one in (rank, (rank + 1) % size):
        if one in living:
            return living.index(one)
    raise AgreedError(f"ranks {rank} and {(rank + 1) % size} have died, and with them what only they had"
                      " | try: python -m mpilayer.launch --restarts, which goes on from a checkpoint")


class LoadedSnapshot(Loaded):
    """As Loaded, of a Snapshot; `holders`: for each rank that made it, which rank has now what was its own."""

    more = "more --spares"

    def __init__(self, ranks, snapshot, holders):
        self.all, self.snapshot, self.manifest, self.ranks = ranks, snapshot, snapshot.manifest, snapshot.ranks
        self.path = f"the snapshot after {snapshot.first['run']['step']} steps"
        if ranks.size == self.ranks:
            holders = range(self.ranks)
        self.files = {rank: (None, *snapshot.own[rank]) for rank, holder in enumerate(holders) if holder == ranks.rank}
        self.values = {rank: values for rank, (_, _, values) in self.files.items()}

    def of_this_rank(self):
        """The values of this rank, or where there are fewer ranks now, of the first one."""
        return self.values[self.all.rank] if self.ranks == self.all.size else self.snapshot.first

    def _put_equal(self, state):
        equal.put(state.equal, 0, self.snapshot.equal)
