"""The flight recorder: where each rank is, and its last messages, in memory that its neighbours can read.

A node has one file with a block for each of its ranks. A block is an array of 64-bit words: a header, then ENTRIES
records of messages, used in turn. What a rank writes there costs about a microsecond; nobody waits for anybody.
"""

import contextlib
import functools
import mmap
import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mpilayer.base.errors import UserError
from mpilayer.mpi.node_file import open_together

ENTRIES = 512
# words of the header; TEXTS begin where they say and have so many words
MAGIC, RANK, SIZE, PID, MOVED, COUNT, CLOCK = range(7)
TEXTS = {"host": (8, 8), "where": (16, 16), "doing": (32, 16), "waiting": (48, 16)}
HEADER = 64
# words of a record; the moments are nanoseconds of the monotonic clock, 0 for what has not happened
NUMBER, ENGINE, STEP, BYTES, POSTED, STARTED, DONE, NAME = range(8)
NAME_WORDS = 6
ENTRY_WORDS = NAME + NAME_WORDS
BLOCK = HEADER + ENTRIES * ENTRY_WORDS
SIGN = 0x746867696C66  # "flight", first word of a block
SUFFIX = ".flight"


@functools.lru_cache(1 << 14)
def encoded(text, words):
    """A text as so many words, cut or filled up with zeros."""
    return text.encode()[:8 * words].ljust(8 * words, b"\0")


def _decoded(words):
    return words.tobytes().rstrip(b"\0").decode(errors="replace")


class Record(NamedTuple):
    """A message: how many were posted before it, and the monotonic seconds of what has happened to it, or None.

    engine how many engines were made before the one that moves it; 0: none does
    size   bytes of float32 of a sum over all ranks; 0: an exchange with some ranks
    """

    number: int
    name: str
    engine: int
    step: int
    size: int
    posted: float
    started: float | None
    done: float | None

    @property
    def key(self):
        """What it is called on all ranks."""
        return self.engine, self.step, self.name

    @property
    def state(self):
        """The last thing that happened to it."""
        return "done" if self.done else "started" if self.started else "posted"


class Report(NamedTuple):
    """What a block says of its rank.

    where, doing, waiting   in words; `waiting` is empty unless the rank waits for others
    moved     monotonic seconds at which something changed last        clock   what to add for seconds since 1970
    records   of its last messages, oldest first
    """

    rank: int
    size: int
    pid: int
    host: str
    where: str
    doing: str
    waiting: str
    moved: float
    clock: float
    records: list

    @property
    def place(self):
        """Where the rank is."""
        return f"{self.where} | {self.doing}" if self.doing else self.where

    @property
    def open(self):
        """The records of messages that were posted and are not done."""
        return [record for record in self.records if not record.done]


def report(block):
    """The Report of a block (BLOCK,) int64; None if no rank has written there."""
    if block[MAGIC] != SIGN:
        return None
    texts = {name: _decoded(block[begin:begin + words]) for name, (begin, words) in TEXTS.items()}
    entries = block[HEADER:].reshape(ENTRIES, ENTRY_WORDS)
    entries = entries[entries[:, NUMBER] > 0]
    records = [Record(int(entry[NUMBER]) - 1, _decoded(entry[NAME:]), *map(int, entry[ENGINE:POSTED]),
                      *(int(moment) / 1e9 or None for moment in entry[POSTED:DONE + 1]))
               for entry in entries[np.argsort(entries[:, NUMBER])]]
    return Report(*(int(block[word]) for word in (RANK, SIZE, PID)), **texts, moved=int(block[MOVED]) / 1e9,
                  clock=int(block[CLOCK]) / 1e9, records=records)


class FlightRecorder:
    """Of one rank, in `block` (BLOCK,) int64.

    where     what this rank is doing, in words: schedule and step        engines   that have recorded here so far
    """

    def __init__(self, block, rank, size):
        self.block, self.engines = block, 0
        self._words, self._bytes = memoryview(block), memoryview(block).cast("B")
        for word, value in {RANK: rank, SIZE: size, PID: os.getpid(), MAGIC: SIGN,
                            CLOCK: time.time_ns() - time.perf_counter_ns()}.items():
            block[word] = value
        self._write("host", socket.gethostname())
        self.where = "start-up"

    def _write(self, name, text):
        begin, words = TEXTS[name]
        self._bytes[8 * begin:8 * (begin + words)] = encoded(text, words)
        self.moved()

    def moved(self):
        """Something has changed on this rank."""
        self._words[MOVED] = time.perf_counter_ns()

    @property
    def where(self):
        """What was said last."""
        return self._where

    @where.setter
    def where(self, text):
        self._where = text
        self._write("where", text)
        self.doing("")

    def doing(self, text):
        """What of that: a layer, say."""
        self._write("doing", text)

    def waiting(self, what):
        """For others; an empty text: no more."""
        self._write("waiting", what)

    def posted(self, name, step, size):
        """The number of the record of a message of `size` bytes that begins now."""
        number, now = int(self._words[COUNT]), time.perf_counter_ns()
        at = HEADER + number % ENTRIES * ENTRY_WORDS
        self.block[at:at + NAME] = number + 1, 0, step, size, now, now, 0
        self._bytes[8 * (at + NAME):8 * (at + ENTRY_WORDS)] = encoded(name, NAME_WORDS)
        self._words[COUNT], self._words[MOVED] = number + 1, now
        return number

    def done(self, number):
        """The message of that record has completed."""
        if number >= self._words[COUNT] - ENTRIES:  # else others have taken its place
            self._words[HEADER + number % ENTRIES * ENTRY_WORDS + DONE] = time.perf_counter_ns()
        self.moved()


def _path(folder, ranks):
    return Path(folder) / f"node-of-rank-{ranks.bcast(ranks.rank, ranks.node)}{SUFFIX}"


def _open(path, ranks, make):
    """The descriptor, on each rank of a node, of the node's file. Raises AgreedError."""
    def made():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # what another run may still have in memory must not shrink
            make(path)
        except OSError as error:
            raise UserError(f"cannot write to {path.parent} ({error.strerror}) | try: another --out") from None

    ranks.agree(made if ranks.node.rank == 0 else lambda: None)
    return os.open(path, os.O_RDWR)


class NodeRecorders:
    """The blocks of all ranks of a node, in a file without a name, or in a folder. All ranks of the node make it.

    blocks   (ranks of the node, BLOCK) int64          own   this rank's FlightRecorder
    """

    def __init__(self, ranks, folder=None):
        size = 8 * BLOCK * ranks.node.size

        def make(path):
            with open(path, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is noticed now, and not as a bus error later

        self.path = None if folder is None else _path(folder, ranks)
        descriptor = _open(self.path, ranks, make) if folder else ranks.agree(lambda: open_together(ranks, make))
        self.memory = mmap.mmap(descriptor, size)
        os.close(descriptor)
        self.blocks = np.frombuffer(self.memory, np.int64).reshape(-1, BLOCK)
        self.own = FlightRecorder(self.blocks[ranks.node.rank], ranks.rank, ranks.size)
        self.ranks = ranks
        ranks.meet(ranks.node)

    def remove(self):
        """The file, if it has a name; the memory stays."""
        if self.path and self.ranks.node.rank == 0:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # of other nodes there are files left
                self.path.parent.rmdir()

    def reports(self):
        """The Reports of the node's ranks."""
        return [found for found in map(report, self.blocks) if found]


def read(folder):
    """The Reports of all files in a folder, by rank. Raises UserError."""
    files = sorted(Path(folder).glob(f"*{SUFFIX}"))
    if not files:
        raise UserError(f"{folder} | no flight recorders | expected files *{SUFFIX}, as a run with --out leaves them in"
                        " its folder `flight` when it fails")
    found = {}
    for file in files:
        words = np.fromfile(file, np.int64)
        for block in words[:words.size // BLOCK * BLOCK].reshape(-1, BLOCK):
            if (each := report(block)) is not None:
                found[each.rank] = each
    if not found:
        raise UserError(f"{folder} | the files have no records | expected those that a run has written")
    return [found[rank] for rank in sorted(found)]
