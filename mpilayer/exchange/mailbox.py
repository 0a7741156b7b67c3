"""Messages from one rank to another. They move between layers and, as sums do, while kernels compute."""

import contextlib

import numpy as np

from mpilayer.exchange.channel import Traffic
from mpilayer.mpi.collectives import Calls
from mpilayer.mpi.engine import Engine, Stage


class Letter:
    """`size` numbers of float32, as the codec writes them, and one whole number of up to 31 bits, `head`."""

    def __init__(self, size, codec):
        self.codec, self.memory = codec, np.zeros(4 + size * codec.dtype.itemsize, np.uint8)
        self._head, self.body = self.memory[:4].view(np.int32), self.memory[4:].view(codec.dtype)

    @property
    def head(self):
        """The whole number."""
        return int(self._head[0])

    def write(self, numbers, head=0):
        """Fill it."""
        self._head[0] = head
        self.codec.encode(numbers, self.body)
        return self

    def read(self):
        """(size,) float32."""
        numbers = np.empty(self.body.size, np.float32)
        self.codec.decode(self.body, numbers)
        return numbers


class Awaited:
    """How many requests of each layer are still to come."""

    def __init__(self, mail):
        self.mail, self.lacking = mail, {}

    def expect(self, name, step, count):
        """So many requests, from now on; a function to be called when one has completed."""
        self.lacking[name], began = count, self.mail.trace.now()

        def came():
            self.lacking[name] -= 1
            if self.lacking[name] == 0:
                self.mail.trace.request(name, step, began, self.mail.trace.now())

        return came

    def arrived(self, name):
        """Wait for what was expected, and forget it; False if nothing was."""
        if name not in self.lacking:
            return False
        self.mail.wait(lambda: self.lacking[name] == 0, name)
        del self.lacking[name]
        return True


class Mail(Traffic):
    """Requests in flight, each with what is to be done when it has completed.

    What lets all of them move while a kernel computes is a receive that waits for a message to oneself: testing it
    lets MPI look after everything else.
    """

    norm = None  # nobody knows a whole gradient

    def open(self, answer=None):
        """Letters may come; answer(source, tag, message) is called for each that is sent to this rank's desk."""
        self.ranks.meet()
        self.pending, self.answer, self.belongings = [], answer, contextlib.ExitStack()
        self.comm, self.desk, self.self = (world.Dup() for world in (*[self.ranks.world] * 2, self.ranks.MPI.COMM_SELF))
        for comm in (self.comm, self.desk, self.self):
            self.belongings.callback(comm.Free)
        calls, MPI = Calls(self.ranks), self.ranks.MPI
        waiting = self.self.Recv_init([np.zeros(1, np.uint8), MPI.BYTE], 0)
        self.belongings.callback(waiting.Free)
        at = MPI._addressof(waiting)
        self.engine = Engine([[(Stage((calls.address("MPI_Start"), at), at, keep=(calls, waiting)),)]], 1, calls.test)
        self.resume()

    def resume(self):
        """Messages move from here on."""
        self.engine.mark(0, 0, ready=True)
        self.engine.advance()
        super().resume()

    def pause(self):
        """Nothing moves from here on. Raises RuntimeError if something is in flight."""
        if self.engine is None or self.engine.quiet:
            return
        if self.pending and not self.engine.error:
            raise RuntimeError(f"{len(self.pending)} requests in flight | expected a drain before mail is stopped")
        with self.engine.held():
            self.self.Send([np.zeros(1, np.uint8), self.ranks.MPI.BYTE], 0)
        while not self.engine.quiet:
            self.engine.advance()
        super().pause()

    def close(self):
        """Give back what MPI made for this."""
        if self.engine is not None:
            self.pause()
            self.belongings.close()
            self.engine = None

    def watch(self, start, then=lambda: None):
        """Call then() when the request that start() makes has completed."""
        with self.engine.held():
            self.pending.append((start(), then))

    def send(self, letter, to, tag, then=lambda: None, desk=False):
        """To a rank, or to its desk."""
        comm = self.desk if desk else self.comm
        self.watch(lambda: comm.Isend([letter.memory, self.ranks.MPI.BYTE], to, tag), then)

    def receive(self, letter, source, tag, then=lambda: None):
        """From a rank."""
        self.watch(lambda: self.comm.Irecv([letter.memory, self.ranks.MPI.BYTE], source, tag), then)

    def accept(self, message, letter, then):
        """A message at the desk."""
        self.watch(lambda: message.Irecv([letter.memory, self.ranks.MPI.BYTE]), then)

    def look(self):
        """See what has completed and what has come."""
        with self.engine.held():
            found = self.ranks.MPI.Request.Testsome([request for request, _ in self.pending]) if self.pending else None
        done = [self.pending[number] for number in found or ()]
        self.pending = [item for number, item in enumerate(self.pending) if number not in set(found or ())]
        for _, then in done:
            then()
        while self.answer and (come := self._come()):
            self.answer(*come)

    def _come(self):
        """(source, tag, message) of what is at the desk, or None."""
        status = self.ranks.MPI.Status()
        with self.engine.held():
            message = self.desk.Improbe(status=status)
        return message and (status.source, status.tag, message)

    def test(self):
        """Look, between layers."""
        with self.trace.span("mpi", "look"):
            self.look()

    def wait(self, arrived, what, kind="exposed"):
        """Return when arrived() is true, looking meanwhile, and count the time as exposed, or of another kind."""
        def looked():
            self.look()
            return arrived()

        super().wait(looked, what, kind)

    def mean(self, numbers):
        """Their means over the ranks, in place."""
        with self.engine.held():
            self.ranks.wait(self.comm.Iallreduce(self.ranks.MPI.IN_PLACE, numbers), "the mean of all weights")
        numbers /= self.ranks.size

    def assemble(self, numbers, counts):
        """On every rank: the first counts[0] numbers of rank 0, the next counts[1] of rank 1, and so on; in place."""
        starts = np.cumsum([0, *counts[:-1]])
        with self.engine.held():
            self.ranks.wait(self.comm.Iallgatherv(self.ranks.MPI.IN_PLACE, [numbers, counts, starts,
                                                                           self.ranks.MPI.FLOAT]), "all weights")
