"""What a part has found so far: a file that is written after every unit of work, and that another run goes on with."""

import hashlib
import json
import threading
import time
from pathlib import Path

from mpilayer.base.files import replacing

PARTS = {  # module, and the seconds of eight minutes that are its own
    "build": ("bench.gpu.build", 60),
    "check": ("bench.gpu.check", 90),
    "layers": ("bench.gpu.layers", 120),
    "memory": ("bench.gpu.memory", 40),
    "steps": ("bench.gpu.steps", 100),
    "overlap": ("bench.gpu.overlap", 60),
}
LONGEST = 60  # seconds: a unit that takes more has failed, and the others go on
TOP = Path(__file__).parents[2]
SOURCES = ("kernels/**/*.py", "kernels/**/*.cu*", "nets/*.py")


def sources():
    """A hash of the kernels and nets: what was measured with others is no longer true."""
    digest = hashlib.sha256()
    for file in sorted(file for pattern in SOURCES for file in TOP.glob(pattern)):
        digest.update(file.relative_to(TOP).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]


class Record:
    """units {name: its rows}, failures {name: {run, error}}, `missing` names, `facts`, `seconds` spent.

    `key`: what all of it must have in common; what another key has left is forgotten. `run` tells this run from those
    before: what failed then is tried again. `units`: all there are. `latest`: when one ended. Threads take `lock`.
    """

    def __init__(self, folder, part, key, run, units):
        self.path, self.run, self.units = folder / f"{part}.json", run, units
        found = read(folder, part)
        self.anew = bool(found["units"]) and found["key"] != key
        self.data = empty() if self.anew else found
        failures = {name: failure for name, failure in self.data["failures"].items() if failure["run"] == run}
        self.data |= {"part": part, "key": key, "error": None, "failures": failures}
        self.lock, self.latest = threading.RLock(), time.time()
        self.begin = self.latest - self.data["seconds"]

    def todo(self):
        """{name: unit} of those not done, and not failed in this run."""
        known = self.data["units"].keys() | self.data["failures"].keys()
        return {name: unit for name, unit in self.units.items() if name not in known}

    def add(self, name, rows):
        """A unit is done, or `rows` is the exception that it ended with, which may have rows."""
        with self.lock:
            if isinstance(rows, Exception):
                self.data["failures"][name] = {"run": self.run, "error": told(rows), "rows": getattr(rows, "rows", [])}
            else:
                self.data["units"][name] = rows
            self.latest = time.time()
            self.save()

    def save(self):
        """Write all of it."""
        with self.lock:
            self.data |= {"missing": list(self.todo()), "seconds": time.time() - self.begin}
            write(self.path, self.data)


def write(path, data):
    """All of a part, whole or not at all."""
    with replacing(path) as file:
        json.dump(data, file)


def empty():
    """Of a part that has not begun; `error`: what ended the last process that tried."""
    return {"key": None, "facts": {}, "units": {}, "failures": {}, "missing": [], "seconds": 0.0, "error": None}


def told(error):
    """An exception in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:2000]


def fail(folder, part, error):
    """A part could not be measured at all."""
    write(folder / f"{part}.json", read(folder, part) | {"error": told(error)})


def read(folder, part):
    """What a part's file has."""
    try:
        return empty() | json.loads((folder / f"{part}.json").read_text())
    except (OSError, ValueError):
        return empty()


def rows(data):
    """All rows of a part, of what failed, too, as far as there are any."""
    failed = [failure["rows"] for failure in data["failures"].values()]
    return [row for unit in (*data["units"].values(), *failed) for row in unit]
