"""`--log`: numbers of a run as it goes on, for programs that draw them. The first rank writes."""

import contextlib
import importlib.util
import json
import sys
import time

import numpy as np

from mpilayer.base.errors import UserError
from mpilayer.base.files import replacing
from mpilayer.report.runs import LOG, log_lines
from mpilayer.training.meter import slowest

JSON_LINES, TENSORBOARD = "jsonl", "tensorboard"
PERCENTILES = 50, 90, 99


class JsonLines:
    """OUT/log.jsonl: {"step", "time", and all that is known}, a line each. Lines of steps after `done` are replaced."""

    def __init__(self, folder, done):
        path = folder / LOG
        kept = [line for line in log_lines(path) if line["step"] <= done] if done else []
        with replacing(path) as file:
            file.writelines(f"{json.dumps(line)}\n" for line in kept)
        self.file = path.open("a")

    def write(self, step, values):
        """A line."""
        print(json.dumps({"step": step, "time": time.time(), **values}), file=self.file, flush=True)

    def close(self):
        """Of the file."""
        self.file.close()


class Events:
    """A file of TensorBoard's, which takes no account of steps after `done` in those that are there already."""

    def __init__(self, folder, done):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.event, self.summary, self.writer = event_pb2, summary_pb2.Summary, EventFileWriter(str(folder))
        self._add(done + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _add(self, step, **what):
        self.writer.add_event(self.event.Event(wall_time=time.time(), step=step, **what))

    def write(self, step, values):
        """Each as a scalar."""
        scalars = [self.summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(step, summary=self.summary(value=scalars))
        self.writer.flush()

    def close(self):
        """Of the file."""
        self.writer.close()


LOGS = {JSON_LINES: JsonLines, TENSORBOARD: Events}


def add_options(parser):
    """Add them."""
    parser.add_argument("--log", action="append", choices=LOGS, help="write numbers of the run into OUT as it goes on;"
                        " may be given several times")


def check(options):
    """Raises UserError for a log without a folder, or without the package that writes it."""
    if options.log and not options.out:
        raise UserError("--log goes with --out | try: --out FOLDER")
    if TENSORBOARD in (options.log or ()) and not importlib.util.find_spec(TENSORBOARD):
        raise UserError("--log tensorboard: no package tensorboard | try: pip install 'mpilayer[tensorboard]'")


class Log(contextlib.AbstractContextManager):
    """All logs of those names; a listener of a Meter.

    done, restarts   steps of the run that were made before, and how often it was started again
    """

    def __init__(self, names, folder, done, restarts):
        self.failed, self.logs = False, []
        self._trying(lambda: self.logs.extend(LOGS[name](folder, done) for name in dict.fromkeys(names)))
        self._write(done, {"restarts": restarts})

    def __exit__(self, *failure):
        for log in self.logs:
            self._trying(log.close)

    def __call__(self, reading):
        """What a Reading says of the last steps."""
        steps = reading.of("steps")
        found = slowest(steps, reading.of("samples"), reading.of("compute"))
        percentiles = np.percentile(reading.durations, PERCENTILES)
        self._write(reading.step, {
            "loss": reading.of("loss").sum() / steps.mean(),
            "images_per_second": reading.of("samples").sum() / reading.of("seconds").max(),
            "exposed_share": reading.of("exposed").sum() / reading.of("seconds").sum(),
            **{f"step_seconds_p{name}": value for name, value in zip(PERCENTILES, percentiles, strict=True)},
            **({"slowest_rank": found[0], "slowest_times": found[1]} if found else {}),
            **({} if reading.staleness is None else {"staleness": reading.staleness})})

    def epoch(self, step, entry):
        """What an epoch's record says."""
        self._write(step, {name: entry[name] for name in ("epoch", "test_loss", "test_accuracy")})

    def _write(self, step, values):
        numbers = {name: value if isinstance(value, int) else float(value) for name, value in values.items()}
        for log in self.logs:
            self._trying(lambda log=log: log.write(step, numbers))

    def _trying(self, action):
        """What cannot be written is said once."""
        try:
            action()
        except OSError as error:
            if not self.failed:
                print(f"mpilayer: --log cannot write ({error.strerror}); training goes on", file=sys.stderr, flush=True)
            self.failed = True
