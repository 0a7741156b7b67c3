"""Who computes what, when ranks are not equally fast: numbers that each go to one rank, whoever asks first."""

import numpy as np


class SharedCounter:
    """Whole numbers from 0, kept by rank 0; made and closed by all ranks together."""

    def __init__(self, ranks, engine):
        self.ranks, self.engine = ranks, engine
        self.counter, self.one, self.mine = np.zeros(1, np.int64), np.ones(1, np.int64), np.zeros(1, np.int64)
        self.window = ranks.MPI.Win.Create(self.counter if ranks.rank == 0 else None, 8, comm=ranks.comm)
        self.window.Lock_all()

    def restart(self):
        """From 0 again; a meeting of all ranks."""
        with self.engine.held():
            self.ranks.meet()
            self.counter[0] = 0
            self.window.Sync()
            self.ranks.meet()

    def next(self):
        """The next number."""
        kind = self.ranks.MPI.INT64_T
        with self.engine.held():
            self.ranks.wait(self.window.Rget_accumulate([self.one, kind], [self.mine, kind], 0, [0, 1, kind],
                                                        self.ranks.MPI.SUM), "a number")
        return int(self.mine[0])

    def close(self):
        """Give the window back."""
        self.window.Unlock_all()
        self.window.Free()
