"""Where compiled kernels are kept, and what is done about a cache that is damaged, full, or may not be written to.

Numba has no hook for this. When this module is imported, five methods of its cache are replaced: what cannot be read
counts as not there, what cannot be written is compiled again by the next start, what is there is loaded without the
compiler, and what was compiled before one of the files beside it was changed is out of date: compiled functions hold
copies of those that they call. A place is added that Numba tries after all of its own.
"""

import functools
import hashlib
import os
import stat
import sys
import tempfile
from pathlib import Path

from numba.core import caching
from numba.core.runtime import rtsys

HERE = os.path.dirname(__file__)  # whose functions all may use

_told = set()
_hash = caching._SourceFileBackedLocatorMixin.get_source_stamp  # of one file


def _say(about, text):
    """A line, once about each thing."""
    if about not in _told:
        _told.add(about)
        print(f"kernels: {text}", file=sys.stderr, flush=True)


def _remove(path, error):
    """A damaged file; one line, from the process that removes it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError:
        pass
    _say(path, f"{path} is damaged ({type(error).__name__}): what was in it is compiled again")


@functools.cache
def _sources(folder):
    """A hash of the sources in a folder."""
    found = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _source_stamp(locator):
    return _hash(locator), _sources(os.path.dirname(locator._py_file)), _sources(HERE)


def _load_index(cache, load=caching.IndexDataCacheFile._load_index):
    try:
        return load(cache)
    except OSError:  # it is not ours to read, or its file system has failed: not there, but not damaged either
        return {}
    except Exception as error:  # which one a damaged file raises depends on the byte that is wrong
        _remove(cache._index_path, error)
        return {}


def _load_data(cache, name, load=caching.IndexDataCacheFile._load_data):
    try:
        return load(cache, name)
    except OSError:
        raise  # which Numba takes for a file that is not there
    except Exception as error:
        _remove(cache._data_path(name), error)
        raise FileNotFoundError from None


def _load_overload(cache, signature, context):
    """As Numba's, but for what only a compiler needs: that takes half a second, and compiling sees to it."""
    rtsys.initialize(context)
    with cache._guard_against_spurious_io_errors():
        return cache._load_overload(signature, context)


def _save_overload(cache, *entry, save=caching.Cache.save_overload):
    try:
        save(cache, *entry)
    except OSError as error:
        _say("saving", f"compiled functions cannot be kept in {cache.cache_path} ({error.strerror}): the next start"
             " compiles them again | try: NUMBA_CACHE_DIR=FOLDER")  # each file of sources has a folder of its own


@functools.cache
def _private():
    """A folder below that of temporary files, which nobody else can write to; None if there is none."""
    try:
        folder = Path(tempfile.gettempdir(), f"mpilayer-cache-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if own else None


class LastResort(caching.UserWideCacheLocator):
    """A folder for temporary files, or no place at all: where nothing else can be written to."""

    def __init__(self, py_func, py_file):
        super().__init__(py_func, py_file)
        place = _private()
        self._cache_path = str((place or Path("/nowhere")) / self.get_suitable_cache_subpath(py_file))
        if place:
            _say(place, f"compiled functions are kept in {place}: neither their sources' folder nor the user's cache"
                 " can be written to | try: NUMBA_CACHE_DIR=FOLDER")

    def ensure_cache_path(self):
        """Where there is no place, saving says so."""
        if _private():
            super().ensure_cache_path()


caching._SourceFileBackedLocatorMixin.get_source_stamp = _source_stamp
caching.IndexDataCacheFile._load_index = _load_index
caching.IndexDataCacheFile._load_data = _load_data
caching.Cache.load_overload = _load_overload
caching.Cache.save_overload = _save_overload
caching.CacheImpl._locator_classes.append(LastResort)
