"""What was saved of all ranks, given back to as many, or to more or fewer."""

import numpy as np

from mpilayer.base.errors import UserError
from mpilayer.storage import checkpoint_files as files
from mpilayer.storage import equal_arrays as equal


class Loaded:
    """What a checkpoint holds, as far as this rank has read it: the files of all ranks are shared out.

    ranks    how many wrote it              path     where it lies
    values   what each rank's file said that this rank has read, {rank: values}

    Raises DamagedError.
    """

    more = "mpiexec -n {ranks}"  # the way to as many ranks

    def __init__(self, ranks, path, manifest):
        self.all, self.path, self.manifest, self.ranks = ranks, path, manifest, manifest["ranks"]
        self.readers = [rank * ranks.size // self.ranks for rank in range(self.ranks)]
        self.files = {rank: files.read_rank(path, rank, manifest["files"][rank])
                      for rank, reader in enumerate(self.readers) if reader == ranks.rank}
        self.values = {rank: values for rank, (_, _, values) in self.files.items()}

    def rows(self):
        """[name, dtype, shape] of all arrays that this rank has, those that are equal on all ranks first."""
        own = self.files.get(self.all.rank, (None, {}))[1] if self.ranks == self.all.size else {}
        return [*self.manifest["equal"], *equal.table(own)]

    def of_this_rank(self):
        """The values that this rank has saved; where there were more or fewer ranks, those of the first one."""
        same = self.ranks == self.all.size
        return self.values[self.all.rank] if same else self.all.bcast(self.values.get(0))

    def put(self, state, averaged=()):
        """Copy the arrays into those of a State; all ranks call this together. Those named in `averaged`, of float64,
        need not have been saved by as many ranks: then each gets their mean. Raises AgreedError if they do not fit.
        """
        self.all.agree(lambda: self._check(state, averaged))
        self._put_equal(state)
        if self.ranks == self.all.size:
            for name, array in state.own.items():
                equal.write(array, self.files[self.all.rank][1][name])
        else:
            for name in averaged:
                found = sum((own[name] for _, own, _ in self.files.values()), np.zeros(state.own[name].shape))
                equal.write(state.own[name], self.all.total(found) / self.ranks)

    def _put_equal(self, state):
        rows = self.manifest["equal"]
        for rank in range(self.ranks):
            begin, end = equal.part_of(equal.size_of(rows), rank, self.ranks)
            part = self.files[rank][0] if rank in self.files else np.empty(end - begin, np.uint8)
            self.all.broadcast(part, self.readers[rank])
            equal.put(state.equal, begin, part)

    def _check(self, state, averaged):
        self._compare(equal.table(state.equal), self.manifest["equal"])
        if self.ranks == self.all.size:
            self._compare(equal.table(state.own), equal.table(self.files[self.all.rank][1]))
        elif own := [name for name in state.own if name not in averaged]:
            raise UserError(f"{self.path} | is of {self.ranks} ranks, each of which has {own[0]} of its own"
                            f" | expected {self.ranks} ranks, got {self.all.size} | try: "
                            + self.more.format(ranks=self.ranks))

    def _compare(self, wanted, found):
        """Raise UserError unless both tables have the same rows; their order counts where bytes are shared out."""
        if wanted != found:
            differing = [row for row in wanted if row not in found] or [row for row in found if row not in wanted]
            name, dtype, shape = differing[0] if differing else wanted[0]
            raise UserError(f"{self.path} | {name} | does not fit: {dtype} {shape} | expected the same net, optimizer"
                            " and schedule | try: another folder for checkpoints")
