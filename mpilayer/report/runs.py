"""What a run has left in its folder: run.json, and log.jsonl and timeline.json if there are any."""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

from mpilayer.base.errors import UserError

RUN, TIMELINE, LOG = "run.json", "timeline.json", "log.jsonl"
KEYS = {"config", "given", "measured", "environment", "complete", "epochs", "final"}
FORMAT = 1  # of run.json; another one if what it had is gone, or means something else


class Run(NamedTuple):
    """record of run.json; log, the lines of log.jsonl, {} each; timeline, its path, or None."""

    name: str
    record: dict
    log: list
    timeline: Path | None

    @property
    def final(self):
        """What the record says of the end; {} of a run that has not come there."""
        return self.record["final"] or {}

    def losses(self):
        """(steps, losses of training) as they went, or at the ends of epochs if there is no log."""
        logged = [(line["step"], line["loss"]) for line in self.log if "loss" in line]
        return zip(*(logged or self._by_epoch("train_loss")), strict=True) if self.record["epochs"] or logged else ()

    def accuracies(self):
        """(steps, accuracies on the test part)."""
        return zip(*self._by_epoch("test_accuracy"), strict=True) if self.record["epochs"] else ()

    def _by_epoch(self, name):
        return [(epoch["step"], epoch[name]) for epoch in self.record["epochs"]]


def record(path, wanted):
    """What a run.json holds; `wanted` is what to expect, in words. Raises UserError."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}) | expected {wanted}") from None
    except ValueError:
        raise UserError(f"{path} is not whole, or no JSON | expected {wanted}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or not found.keys() >= KEYS:
        raise UserError(f"{path} | is no record of a run in format {FORMAT} | expected {wanted}")
    return found


def log_lines(path):
    """The lines of a log.jsonl that are whole, as {"step": ...}: the last one of a run that was killed may not be."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and isinstance(line.get("step"), int)]


def read(folder):
    """The Run in a folder. Raises UserError."""
    found, timeline = record(folder / RUN, "the folder of a run: mpilayer.train --out"), folder / TIMELINE
    return Run(folder.resolve().name, found, log_lines(folder / LOG), timeline if timeline.exists() else None)
