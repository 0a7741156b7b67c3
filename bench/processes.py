"""Calls spread over processes: one that dies or hangs takes nobody else's work with it, and is replaced."""

import contextlib
import math
import multiprocessing
import os
import time
from multiprocessing import connection

MOST = 16  # at once: a container's share of the cores does not show in the affinity


def _serve(pipe):
    """What a process does until nobody is at the other end."""
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = pipe.recv()
            try:
                found = function(*arguments)
            except Exception as error:  # of any kind; in words, for some of CUDA's and CuPy's do not travel
                found = RuntimeError(f"{type(error).__name__}: {error}")
            pipe.send(found)


class Worker:
    """A process, and the call it is at: its `name`, and until when it may take."""

    def __init__(self, module):
        context = multiprocessing.get_context("forkserver")  # it has imported `module`, and has not opened the GPU
        context.set_forkserver_preload([module])
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # the process has it alone: when that dies, it ends

    def begin(self, name, function, arguments, seconds):
        """Start a call."""
        self.name, self.until = name, time.monotonic() + seconds
        with contextlib.suppress(OSError):  # it has died: result() says so
            self.pipe.send((function, arguments))

    def result(self):
        """What the call returned, or an exception; after some of these there is no worker any more."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
            found = TimeoutError("did not end in time, and was stopped")
        except (EOFError, OSError):
            self.process.join()
            found = RuntimeError(f"its process ended with exit status {self.process.exitcode}")
        self.end()
        return found

    def end(self):
        """At once; nobody waits for it, for a GPU may keep it."""
        self.pipe.close()
        self.process.kill()


def spread(function, calls, *, workers=None, seconds=math.inf, fresh=False):
    """Yield (name, what function(*arguments) returns, or an exception) of {name: arguments}, as they come.

    workers   calls at a time, by default one for each core     seconds   that one may take
    fresh     every call in a new process                       Whoever stops reading stops all.
    """
    left, idle, busy = list(calls.items())[::-1], [], {}
    workers = workers or min(MOST, len(os.sched_getaffinity(0)))
    try:
        while left or busy:
            while left and len(busy) < workers:
                worker = idle.pop() if idle else Worker(function.__module__)
                name, arguments = left.pop()
                worker.begin(name, function, arguments, seconds)
                busy[worker.pipe] = worker
            ready = connection.wait(busy, timeout=1)
            late = [pipe for pipe, worker in busy.items() if time.monotonic() > worker.until]
            for pipe in dict.fromkeys([*ready, *late]):
                worker = busy.pop(pipe)
                found = worker.result()
                if fresh:
                    worker.end()
                if not worker.pipe.closed:
                    idle.append(worker)
                yield worker.name, found
    finally:
        for worker in (*idle, *busy.values()):
            worker.end()
