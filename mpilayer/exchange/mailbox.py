"""Messages from one rank to another. They move between layers and, as sums do, while kernels compute."""

import contextlib

import numpy as np

from mpilayer.base.errors import UserError
from mpilayer.exchange.channel import Channel
from mpilayer.mpi.collectives import Calls
from mpilayer.mpi.engine import Engine, Operation


class Message:
    """`size` numbers of float32, as the codec writes them, and a whole number of up to 31 bits, their `step`."""

    def __init__(self, size, codec):
        self.codec, self.memory = codec, np.zeros(4 + size * codec.dtype.itemsize, np.uint8)
        self._step, self.body = self.memory[:4].view(np.int32), self.memory[4:].view(codec.dtype)

    @property
    def step(self):
        """The whole number."""
        return int(self._step[0])

    def write(self, numbers, step=0):
        """Fill it."""
        self._step[0] = step
        self.codec.encode(numbers, self.body)
        return self

    def read(self):
        """(size,) float32."""
        numbers = np.empty(self.body.size, np.float32)
        self.codec.decode(self.body, numbers)
        return numbers


class PendingReplies:
    """How many requests of each layer are still to come."""

    def __init__(self, mail):
        self.mail, self.lacking = mail, {}

    def expect(self, name, step, count):
        """So many requests, from now on; a function to be called when one has completed."""
        self.lacking[name], began = count, self.mail.trace.now()
        recorder = self.mail.ranks.recorder
        record = recorder.posted(name, step, 0)

        def came():
            self.lacking[name] -= 1
            if self.lacking[name] == 0:
                recorder.done(record)
                self.mail.trace.request(name, step, began, self.mail.trace.now())

        return came

    def arrived(self, name):
        """Wait for what was expected, and forget it; False if nothing was."""
        if name not in self.lacking:
            return False
        self.mail.wait(lambda: self.lacking[name] == 0, name)
        del self.lacking[name]
        return True


class Mailbox(Channel):
    """Requests in flight, each with what is to be done when it has completed.

    What lets all of them move while a kernel computes is a receive that waits for a message to oneself: testing it
    lets MPI look after everything else.
    """

    norm = None  # nobody knows a whole gradient

    def open(self, tags, answer=None):
        """Messages with tags below `tags` may come; answer(source, tag, probed) is called for each that is sent to this
        rank's server. Nothing moves before the first message, or resume(). Raises UserError if MPI has fewer tags.
        """
        most = self.ranks.MPI.COMM_WORLD.Get_attr(self.ranks.MPI.TAG_UB)  # a shrunken one has none
        if tags > most + 1:
            raise UserError(f"{tags:,} kinds of messages, one for each layer | this MPI has tags for {most + 1:,}"
                            " | try: fewer, larger layers")
        self.ranks.meet()
        self.pending, self.answer, self.belongings = [], answer, contextlib.ExitStack()
        self.comm, self.server_comm = self.ranks.duplicate(), self.ranks.duplicate()
        self.self = self.ranks.MPI.COMM_SELF.Dup()
        for comm in (self.comm, self.server_comm, self.self):
            self.belongings.callback(comm.Free)
        calls, MPI = Calls(self.ranks), self.ranks.MPI
        waiting = self.self.Recv_init([np.zeros(1, np.uint8), MPI.BYTE], 0)
        self.belongings.callback(waiting.Free)
        at = MPI._addressof(waiting)
        operation = Operation((calls.address("MPI_Start"), at), at, keep=(calls, waiting))
        self.engine = Engine([[(operation,)]], 1, calls.test)

    def resume(self):
        """Messages move from here on; nothing if they do."""
        if self.engine.quiet:
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
        while not (self.engine.quiet or self.engine.error):
            self.engine.advance()
        super().pause()

    def close(self):
        """Give back what MPI made for this."""
        if self.engine is not None:
            self.pause()
            self.belongings.close()
            self.engine = None

    def watch(self, start, on_complete=lambda: None):
        """Call on_complete() when the request that start() makes has completed."""
        self.resume()
        with self.engine.held():
            self.pending.append((start(), on_complete))

    def send(self, message, to, tag, on_complete=lambda: None, to_server=False):
        """To a rank, or to its server."""
        comm = self.server_comm if to_server else self.comm
        self.watch(lambda: comm.Isend([message.memory, self.ranks.MPI.BYTE], to, tag), on_complete)

    def receive(self, message, source, tag, on_complete=lambda: None):
        """From a rank."""
        self.watch(lambda: self.comm.Irecv([message.memory, self.ranks.MPI.BYTE], source, tag), on_complete)

    def accept(self, probed, message, on_complete):
        """What was sent to the server."""
        self.watch(lambda: probed.Irecv([message.memory, self.ranks.MPI.BYTE]), on_complete)

    def move(self):
        """See what has completed and what has come. Raises UserError if MPI failed."""
        if self.engine.error:
            text = self.ranks.MPI.Get_error_string(self.engine.error)
            raise UserError(f"MPI failed while messages were moved: {text} | try: python -m mpilayer.info")
        with self.engine.held():
            found = self.ranks.MPI.Request.Testsome([request for request, _ in self.pending]) if self.pending else None
        done = [self.pending[number] for number in found or ()]
        self.pending = [item for number, item in enumerate(self.pending) if number not in set(found or ())]
        for _, on_complete in done:
            on_complete()
        while self.answer and (come := self._come()):
            self.answer(*come)

    def _come(self):
        """(source, tag, probed message) of what was sent to the server, or None."""
        status = self.ranks.MPI.Status()
        with self.engine.held():
            probed = self.server_comm.Improbe(status=status)
        return probed and (status.source, status.tag, probed)

    def test(self):
        """See, between layers."""
        with self.trace.span("mpi", "look"):
            self.move()

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
