"""Who computes what, when ranks are not equally fast: numbers that each go to one rank, whoever asks first."""

import numpy as np

STOPPED = 1 << 40  # what stop() adds to the number: both are one, so that all ranks see them in one order


class SharedCounter:
    """Whole numbers from 0, kept by rank 0; made and closed by all ranks together."""

    def __init__(self, ranks, engine):
        self.ranks, self.engine = ranks, engine
        self.counter, self.more, self.mine = (np.zeros(1, np.int64) for _ in range(3))
        self.window = ranks.MPI.Win.Create(self.counter if ranks.rank == 0 else None, 8, comm=ranks.comm)
        self.window.Lock_all()

    def restart(self, number=0):
        """From that number on; a meeting of all ranks."""
        with self.engine.held():
            self.ranks.meet()
            self.counter[0] = number
            self.window.Sync()
            self.ranks.meet()

    def next(self):
        """(the next number, whether stop() was called on any rank before)."""
        number = self._add(1)
        return number % STOPPED, number >= STOPPED

    def stop(self):
        """Let all ranks know with the numbers that they get from now on, until restart()."""
        self._add(STOPPED)

    def _add(self, more):
        """The number before that."""
        kind, self.more[0] = self.ranks.MPI.INT64_T, more
        with self.engine.held():
            self.ranks.wait(self.window.Rget_accumulate([self.more, kind], [self.mine, kind], 0, [0, 1, kind],
                                                        self.ranks.MPI.SUM), "a number")
        return int(self.mine[0])

    def close(self):
        """Give the window back."""
        self.window.Unlock_all()
        self.window.Free()
