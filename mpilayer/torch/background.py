"""A thread that starts MPI requests and sees them through; PyTorch learns of it by futures."""

import atexit
import functools
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from mpi4py import MPI
from torch.futures import Future

from mpilayer.base.errors import UserError

SHORTEST, LONGEST = 2e-5, 1e-3  # seconds between two looks: it grows while nothing completes


class Job(NamedTuple):
    """Requests that belong together.

    request   what start() gave         finish   what to compute then; its result is the future's
    status    MPI.Status or None        future   torch.futures.Future
    """

    request: MPI.Request
    finish: Callable
    status: MPI.Status | None
    future: Future

    def done(self):
        """Whether it is; then its future has a result, or MPI's error."""
        try:
            if not self.request.Test(self.status):
                return False
            self.future.set_result(self.finish())
        except Exception as error:  # of MPI: whoever waits gets it
            self.future.set_exception(error)
        return True


class Background:
    """The thread. Jobs are started in the order in which they were handed in."""

    def __init__(self):
        self.todo = queue.Queue()  # a SimpleQueue may sleep for ever when it is given microseconds
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        atexit.register(self.close)

    def submit(self, start, finish, status=None):
        """A Future of what finish() gives when the MPI.Request that start() gives has completed; the thread calls both.
        """
        future = Future()
        self.todo.put((start, finish, status, future))
        return future

    def close(self):
        """Finish what was handed in, and end the thread."""
        if self.thread.is_alive():
            self.todo.put(None)
            self.thread.join()

    def _run(self):
        jobs, nap, ends = [], SHORTEST, False
        while jobs or not ends:
            try:
                wanted = self.todo.get(timeout=nap if jobs else None)
                ends |= wanted is None
                if wanted:
                    jobs += self._started(*wanted)
                nap = SHORTEST
            except queue.Empty:
                nap = min(2 * nap, LONGEST)
            left = [job for job in jobs if not job.done()]
            nap, jobs = nap if len(left) == len(jobs) else SHORTEST, left

    def _started(self, start, *rest):
        try:
            return [Job(start(), *rest)]
        except Exception as error:  # of MPI: whoever waits gets it
            rest[-1].set_exception(error)
            return []


@functools.cache
def background():
    """The one of this process. Raises UserError where MPI does not bear calls by several threads."""
    if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
        raise UserError("this MPI was started without MPI_THREAD_MULTIPLE, which sums in the background need"
                        " | try: mpi4py.rc.thread_level = \"multiple\" before mpi4py.MPI is imported")
    return Background()
