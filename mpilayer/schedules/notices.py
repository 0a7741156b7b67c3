"""Short messages from each rank to all others, for which nobody waits."""

import numpy as np

SIZE = 2  # numbers of a notice


class Notices:
    """`comm` is a communicator that nothing else uses; `channel` knows who may call MPI."""

    def __init__(self, channel, comm):
        self.channel, self.comm, self.sent = channel, comm, []
        self.status, self.others = channel.ranks.MPI.Status(), [r for r in range(comm.size) if r != comm.rank]

    def tell(self, kind, number):
        """Send (kind, number) to all others."""
        notice = np.array([kind, number])
        with self.channel.engine.held():
            self.sent = [each for each in self.sent if not each[0].Test()]
            self.sent += [(self.comm.Isend(notice, rank), notice) for rank in self.others]

    def heard(self):
        """[(rank, kind, number)] of what has come since the last time; those of a rank in the order it told them."""
        found, notice = [], np.zeros(SIZE, np.int64)
        with self.channel.engine.held():
            while self.comm.Iprobe(status=self.status):
                rank = self.status.Get_source()
                self.comm.Recv(notice, rank)
                found.append((rank, *notice.tolist()))
        return found
