"""Ranks of a node compile side by side: each function is compiled by one of them, the others load it from disk."""

import contextlib
import fcntl
import os
import zlib
from pathlib import Path

from numba.core.caching import Cache

from mpilayer.mpi.node_file import open_together

TOLD = 1 << 32  # the byte of the rank that announces it; below are those of functions


class _Elsewhere(BaseException):
    """Another rank compiles this function; no Exception, so that nothing on the way to `Together.call` swallows it."""


class Together:
    """A block in which no two ranks of a node compile the same function.

    Numba keeps compiled functions on disk, with one index for all signatures of a function. A rank that does not find
    a signature there locks the function until it has saved it: a byte of a file that all ranks have open, so that a
    rank that ends gives up its locks. Numba has no hook for this, so the block replaces two methods of its Cache.

    ranks      of which all of a node make this together
    announce   a function that is called before anything is compiled, on the rank that comes first
    """

    def __init__(self, ranks, announce):
        self.file, self.announce = open_together(ranks, lambda path: Path(path).touch()), announce
        self.moved = ranks.recorder.moved
        self.begun, self.waits, self.told = set(), True, False

    def __enter__(self):
        self._load, self._save = Cache.load_overload, Cache.save_overload
        Cache.load_overload = lambda cache, *key: self._found(cache, *key)
        Cache.save_overload = lambda cache, *entry: self._saved(cache, *entry)
        return self

    def __exit__(self, *_):
        Cache.load_overload, Cache.save_overload = self._load, self._save
        os.close(self.file)  # and with it go the locks

    def call(self, works):
        """Call each of these functions until it comes to its end, those that need what another rank compiles later."""
        self.waits, later = False, []
        for work in works:
            try:
                work()
            except _Elsewhere:
                later.append(work)
        self.waits = True
        for work in later:
            work()

    def _found(self, cache, *key):
        """A compiled function from disk, or None: then Numba goes on to compile it."""
        found, byte = self._load(cache, *key), _byte(cache)
        if found is None:
            # Somebody who has begun a function waits for those that it calls: no two of them call each other.
            if not self._lock(byte, wait=self.waits or self.begun):
                raise _Elsewhere
            found = self._load(cache, *key)  # another rank may have saved it meanwhile
            self._begin(byte) if found is None else self._unlock(byte)
        return found

    def _begin(self, byte):
        self.begun.add(byte)
        if not self.told and self._lock(TOLD, wait=False):
            self.announce()
        self.told = True

    def _saved(self, cache, *entry):
        self._save(cache, *entry)
        self.moved()  # compiling is no hang
        self.begun.discard(_byte(cache))
        self._unlock(_byte(cache))

    def _lock(self, byte, wait):
        """Whether this rank has the byte now."""
        with contextlib.suppress(BlockingIOError):
            fcntl.lockf(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
            return True
        return False

    def _unlock(self, byte):
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, byte)


def _byte(cache):
    """The byte of a function in the file."""
    return zlib.crc32(str(cache._cache_file._index_path).encode())
