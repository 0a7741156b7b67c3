"""Who works, and who waits to take the place of a rank that dies: on an MPI that can go on without a rank."""

import time

from mpilayer.mpi import ulfm

NAP = 0.05  # seconds between two looks of a rank that waits
END = 1  # the tag of the message that all is over
TELLING = 8  # ranks that send it, the first ones: some of them may have died
PATIENCE = 5  # seconds in which it is taken


class Places:
    """Of the ranks of a communicator, of which the last `spares` wait. All of them make it.

    world    communicator of all that live         places   of its ranks among those that work; None: it waits
    """

    def __init__(self, MPI, comm, spares):
        self.MPI, self.world = MPI, comm
        self.places = [rank if rank < comm.size - spares else None for rank in range(comm.size)]

    @property
    def place(self):
        """This rank's."""
        return self.places[self.world.rank]

    def group(self):
        """A communicator of those that work, in the order of their places, or of those that wait. All call this."""
        made = self.world.Split(self.place is None, self.place or 0)
        return ulfm.made(self.MPI, made, self.world)

    def regroup(self, comms):
        """As group() after a death: places that are free go to those that wait; where there are too few of these, the
        others move up. All that live call this; `comms` are what they have made of the communicator.
        """
        working, place = sum(place is not None for place in self.places), self.place
        self.world = ulfm.survivors(self.MPI, [self.world, *comms])
        places = self.world.allgather(place)
        free = sorted(set(range(working)) - set(places))
        waiting = [rank for rank, each in enumerate(places) if each is None]
        for rank, each in zip(waiting, free, strict=False):
            places[rank] = each
        left = sorted(each for each in places if each is not None)
        self.places = [each if each is None else left.index(each) for each in places]
        return self.group()

    def _told_by(self):
        """The ranks whose word counts that all is over."""
        return [self.places.index(place) for place in range(TELLING) if place in self.places]

    def stand_by(self):
        """Sleep until the others have come to their end, which is True, or want to regroup."""
        while not self.world.Is_revoked():
            told = [self._has_told(rank) for rank in self._told_by()]  # by all of them
            if any(told):
                return True
            time.sleep(NAP)
        return False

    def _has_told(self, rank):
        try:
            told = self.world.Iprobe(rank, END)
            if told:
                self.world.Recv(bytearray(), rank, END)
        except self.MPI.Exception as error:
            if not ulfm.is_death(self.MPI, error):
                raise
            return False
        return told

    def dismiss(self):
        """Send those home that wait, by those that work, at their end; they may have died, too."""
        if self.world.rank in self._told_by():
            left = [self.world.Issend(b"", rank, END) for rank, place in enumerate(self.places) if place is None]
            end = time.monotonic() + PATIENCE
            while left and time.monotonic() < end:
                left = [request for request in left if not self._is_through(request)]
                time.sleep(NAP / 10)

    def _is_through(self, request):
        """Whether a message has been taken, or never will be."""
        try:
            return request.Test()
        except self.MPI.Exception as error:
            if not ulfm.is_death(self.MPI, error):
                raise
            return True
