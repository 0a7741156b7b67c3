"""run.json: what a run was asked for, where it ran, and every epoch, whole at every moment."""

import json
import os
import sys
import tempfile
from pathlib import Path

from mpilayer.base.errors import UserError
from mpilayer.base.files import lock, replacing
from mpilayer.base.tracing import write_timeline
from mpilayer.report.runs import FORMAT, RUN, TIMELINE
from mpilayer.storage.weights_file import FILE as WEIGHTS
from mpilayer.storage.weights_file import write_weights

FLIGHT = "flight"  # the folder of flight recorders


def _unwritable(path, error):
    return UserError(f"cannot write to the output folder {path} ({error.strerror}) | try: another --out")


def _lock(path):
    """A descriptor of the folder; as long as it is open, no other run gets one. Raises UserError."""
    try:
        return lock(path)
    except BlockingIOError:
        raise UserError(f"another run writes to {path} | try: another --out") from None
    except OSError as error:
        raise _unwritable(path, error) from None


def prepare_folder(path):
    """Make the output folder, and see that files can be written there; its _lock. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise _unwritable(path, error) from None
    for file in (path / RUN, path / TIMELINE, path / WEIGHTS):
        if file.is_dir():
            raise UserError(f"cannot write {file}: it is a folder | try: another --out")
    return _lock(path)


class RunRecord:
    """The files of a run in its folder; all ranks make it, and none is written without a folder.

    environment   a function that says where it runs, called by all ranks

    Raises UserError if the folder cannot be written to. What an earlier run has left there is replaced.
    """

    def __init__(self, ranks, options, environment):
        self.ranks, self.folder, self.failed, self.head = ranks, options.out, False, {}
        if self.folder:
            self.lock = ranks.agree(lambda: prepare_folder(self.folder) if ranks.rank == 0 else None)
            ranks.keep_records(self.folder / FLIGHT)
            options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
            given = options.pop("given")
            self.head = {"format": FORMAT, "config": options, "given": given, "measured": {},
                         "environment": environment()}
            ranks.agree(self._replace)

    @classmethod
    def of_another(cls, ranks, folder, head):
        """Of a rank that takes the place of one that has died; `head` is that of the others."""
        self = cls.__new__(cls)
        self.ranks, self.folder, self.failed, self.lock, self.head = ranks, folder, False, None, head
        return self

    def epochs(self, found):
        """After an epoch: the records of all epochs so far. What cannot be written is said once, and tried again."""
        try:
            if self.folder:
                self._write(found, None)
        except UserError as error:
            if not self.failed:
                print(f"mpilayer: {error}; training goes on", file=sys.stderr, flush=True)
            self.failed = True

    def end(self, found, final, trace, net, about):
        """weights.h5, of a net and what is `about` its weights, run.json, and timeline.json, which is larger and
        matters less. Raises UserError.
        """
        if self.folder:
            try:
                if self.ranks.rank == 0:
                    write_weights(self.folder / WEIGHTS, net, about)
                self._write(found, final)
                write_timeline(self.folder / TIMELINE, self.ranks, trace)
            except OSError as error:
                raise _unwritable(self.folder, error) from None
            self.leave()

    def salvage(self, found, final, net, about):
        """weights.h5 and run.json by each rank that lives, where another has died that may have had to write them: they
        are the same on all. Raises UserError.
        """
        if self.folder:
            try:
                write_weights(self.folder / WEIGHTS, net, about)
            except OSError as error:
                raise _unwritable(self.folder, error) from None
            self._write(found, final, by_all=True)

    def leave(self):
        """The run ends here, in good order; it need not be complete."""
        if self.folder:
            self.ranks.forget_records()
            if self.lock is not None:
                os.close(self.lock)

    def _replace(self):
        """What an earlier run has left by a record without epochs."""
        self._write([], None)
        if self.ranks.rank == 0:
            for name in (TIMELINE, WEIGHTS):
                (self.folder / name).unlink(missing_ok=True)

    def _write(self, epochs, final, by_all=False):
        if self.ranks.rank > 0 and not by_all:
            return
        record = {**self.head, "complete": final is not None, "epochs": epochs, "final": final}
        try:
            with replacing(self.folder / RUN) as file:
                json.dump(record, file, indent=1, allow_nan=False)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
