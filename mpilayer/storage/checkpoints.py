"""The checkpoints of all ranks: written in the background while training goes on, and read again."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kernels.gpu import fetch
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.storage import checkpoint_files as files
from mpilayer.storage import equal_arrays as equal
from mpilayer.storage.checkpoint_files import DamagedError
from mpilayer.storage.loaded import Loaded

NAP = 1e-3  # seconds between two looks: the thread that writes needs Python, too
LEAST = 19  # priority of the thread that writes
REPORT = 512  # bytes in which a rank says what it has written, or why it could not


def _give_way():
    """Let this thread run where the ranks leave a core alone."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST)


def on_standard_error(text):
    """A warning of the first rank."""
    sys.stderr.write(f"mpilayer: {text}\n")
    sys.stderr.flush()


class Checkpoints:
    """The checkpoints in a folder that all hosts share; all ranks make it, and call its methods, together.

    folder   a Path
    keep     how many stay there, the newest
    about    {name: text} of what the run is: it can go on only from a checkpoint with the same
    say      a function that is called with a line of text: that a checkpoint is damaged
    warn     the same: that one could not be written
    channel  a Channel whose messages move meanwhile, or None

    Raises AgreedError if the folder cannot be written to, or if another run writes there.
    """

    def __init__(self, ranks, folder, keep=2, about=(), say=lambda text: None, warn=on_standard_error):
        self.ranks, self.folder, self.keep, self.about = ranks, folder, keep, dict(about)
        self.say, self.warn = say, warn
        self.lock = ranks.agree(lambda: files.prepare(folder) if ranks.rank == 0 else None)
        self.next = 1 + max(ranks.bcast(files.numbers(folder)), default=0)
        self.comm, self.pool = ranks.duplicate(), ThreadPoolExecutor(1, "checkpoint", _give_way)
        self.channel = self.writing = self.request = self.publishing = None
        self.failure = ""  # of the last one, on rank 0
        self.copied = None

    def _held(self):
        return self.channel.engine.held() if self.channel else contextlib.nullcontext()

    def _wait(self, done):
        wait = self.channel.wait if self.channel else self.ranks.until
        wait(lambda: done() or time.sleep(NAP), "the checkpoint")

    def save(self, state, **values):
        """Begin to write a State and this rank's values, that JSON can hold, once the last one is written. When this
        returns the State may change. What cannot be written is said on standard error, and leaves the older ones.
        """
        self.finish()
        begin, end = equal.part_of(sum(array.nbytes for array in state.equal.values()), self.ranks.rank,
                                   self.ranks.size)
        self.copied = equal.piece(state.equal, begin, end, self.copied)
        own = {name: np.array(fetch(array)) for name, array in state.own.items()}
        self.manifest = {"about": self.about, "ranks": self.ranks.size, "equal": equal.table(state.equal)}
        path = files.place(self.folder, self.next, partial=True)
        text = json.dumps({**values, "state": state.values})  # now: the values may change
        self.writing = self.pool.submit(self._write, path, self.copied, own, text)

    def _write(self, path, *contents):
        try:
            return files.write_rank(path, self.ranks.rank, *contents)
        except OSError as error:
            return {"error": f"rank {self.ranks.rank} ({socket.gethostname()[:64]}) | {error.strerror or error}"[:300]}

    def poll(self):
        """Do what can be done now; whether nothing is left to do."""
        if self.writing and self.writing.done():
            self._tell()
        if self.request and self._told():
            self._gathered()
        if self.publishing and self.publishing.done():
            self.publishing = None
        return not (self.writing or self.request or self.publishing)

    def _tell(self):
        """To rank 0, what was written."""
        report = json.dumps(self.writing.result()).encode()
        self.writing, self.report = None, np.zeros(REPORT, np.uint8)
        self.report[:len(report)] = list(report)
        self.reports = np.zeros((self.ranks.size if self.ranks.rank == 0 else 0, REPORT), np.uint8)
        with self._held():
            self.request = self.comm.Igather(self.report, self.reports if self.ranks.rank == 0 else None)

    def _told(self):
        with self._held():
            return self.request.Test()

    def _gathered(self):
        self.request, number = None, self.next
        self.next += 1
        if self.ranks.rank == 0:
            reports = [json.loads(bytes(report).rstrip(b"\0")) for report in self.reports]
            self.publishing = self.pool.submit(self._publish, number, reports)

    def _publish(self, number, reports):
        """On rank 0."""
        errors = [report["error"] for report in reports if "error" in report]
        try:
            if not errors:
                files.publish(self.folder, number, {**self.manifest, "files": reports}, self.keep)
                self.failure = ""
                return
        except OSError as error:
            errors = [error.strerror or str(error)]
        files.discard(self.folder, number)
        self.failure = f"checkpoint {number} in {self.folder} could not be written ({errors[0]})"
        self.warn(f"{self.failure}; the last one stays, and training goes on")

    def finish(self):
        """Wait until the last one is written, or could not be."""
        self._wait(self.poll)

    def finish_own(self):
        """Wait until this rank has done its part: it will not poll for a while."""
        self._wait(lambda: self.poll() or not self.writing)

    def close(self):
        """Give back what MPI made for this, after finish()."""
        self.pool.shutdown()
        self.comm.Free()
        if self.lock is not None:
            os.close(self.lock)

    def abandon(self):
        """Write no more, what is being written included; other ranks may have died."""
        self.pool.shutdown(cancel_futures=True)
        if self.lock is not None:
            os.close(self.lock)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None or issubclass(kind, AgreedError):  # else other ranks are elsewhere
            self.close()

    def newest(self):
        """The newest Loaded that is whole, or None; those that are not are passed over with a line.

        Raises AgreedError if it is of another run.
        """
        for number in self.ranks.bcast(files.numbers(self.folder)):
            path = files.place(self.folder, number)
            found, damage = self.ranks.agree(lambda path=path: self._read(path))
            damaged = self.ranks.first_where(damage)
            if damaged is None:
                return found
            damage = self.ranks.bcast(damage, root=damaged)
            if self.ranks.rank == 0:
                self.say(f"checkpoint {path} is passed over: {damage}")
        return None

    def _read(self, path):
        """(Loaded, "") or (None, what is damaged), of the files that this rank reads. Raises UserError."""
        try:
            manifest = files.read_manifest(path)
            self._check(path, manifest)
            return Loaded(self.ranks, path, manifest), ""
        except DamagedError as error:
            return None, str(error)

    def _check(self, path, manifest):
        for name, value in self.about.items():
            there = manifest["about"].get(name)
            if there != value:
                raise UserError(f"{path} | is of a run with {name} {there} | expected {value}"
                                f" | try: {name} {there}, or another folder for checkpoints")
