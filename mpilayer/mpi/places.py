"""Who works, and who waits to take the place of a rank that dies: on an MPI that can go on without a rank."""

import time

from mpilayer.mpi import ulfm

NAP = 0.05  # seconds between two looks of a rank that waits


class Places:
    """Of the ranks of a communicator, of which the last `spares` wait. All of them make it.

    world     communicator of all that live          working   how many work
    place     of this rank among those that work; None: it waits
    """

    def __init__(self, MPI, comm, spares):
        self.MPI, self.world, self.working = MPI, comm, comm.size - spares
        self.place = comm.rank if comm.rank < self.working else None

    def group(self):
        """A communicator of those that work, in the order of their places, or of those that wait. All call this."""
        made = self.world.Split(self.place is None, self.place or 0)
        return ulfm.made(self.MPI, made, self.world)

    def regroup(self, comms, done):
        """(as group() returns, whether all that work are `done`) after a death: unless they are, places that are free
        go to those that wait. All that live call this; `comms` are what they have made of the communicator.
        """
        self.world = ulfm.survivors(self.MPI, [self.world, *comms])
        places, ended = zip(*self.world.allgather((self.place, done)), strict=True)
        over = all(end for place, end in zip(places, ended, strict=True) if place is not None)
        free = [] if over else sorted(set(range(self.working)) - set(places))
        waiting = [rank for rank, place in enumerate(places) if place is None]
        taken = dict(zip(waiting, free, strict=False))
        self.place = taken.get(self.world.rank, self.place)
        group, self.working = self.group(), len(places) - len(waiting) + len(taken)
        if self.place is not None:
            self.place = group.rank  # where none waited, the others have moved up
        return group, over

    def stand_by(self):
        """Sleep until the others have come to their end, which is True, or want to regroup."""
        request = self.world.Ibarrier()
        while request is not None:
            try:
                if request.Test():
                    return True
            except self.MPI.Exception as error:
                if not ulfm.is_death(self.MPI, error):
                    raise
                request = None  # perhaps only of another that waits
            time.sleep(NAP)
        while not self.world.Is_revoked():
            self.MPI.COMM_SELF.Iprobe()  # so that messages come in
            time.sleep(NAP)
        return False

    def dismiss(self, comms, wait):
        """Send those home that wait, by those that work, at their end."""
        try:
            wait(self.world.Ibarrier())
        except self.MPI.Exception as error:
            if not ulfm.is_death(self.MPI, error):
                raise
            self.regroup(comms, True)
