"""What rank 0 shows: a progress bar, a line for each epoch, a table at the end."""

import os
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mpilayer.base.tracing import KINDS

LAUNCHERS = ("mpiexec", "mpirun", "hydra", "prte", "orte", "srun")


def _parent(pid):
    """(name, parent's pid) of a process; Linux only, elsewhere ("", 0)."""
    try:
        name, rest = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
        return name, int(rest.split()[1])
    except (OSError, ValueError, IndexError):
        return "", 0


def launcher_on_terminal():
    """Whether the mpiexec above this rank writes to a terminal: what ranks write is a pipe to it."""
    pid = os.getppid()
    while pid > 1:
        name, parent = _parent(pid)
        if not any(launcher in name for launcher in LAUNCHERS):
            return False
        try:
            if os.readlink(f"/proc/{pid}/fd/1").startswith("/dev/pts/"):
                return True
        except OSError:
            return False
        pid = parent
    return False


class Display:
    """Everything shown while training; silent on the other ranks and with --quiet."""

    def __init__(self, ranks, options):
        self.ranks, self.options, self.next_look = ranks, options, 0.0
        console = Console(quiet=options.quiet or ranks.rank > 0, highlight=False,
                          force_terminal=launcher_on_terminal() or None)
        self.bar = Progress(TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"),
                            TimeRemainingColumn(), console=console, transient=True, disable=console.quiet)

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *failure):
        self.bar.stop()

    def begin(self, net, data, steps, where=""):
        """Say what will be done; `where`, if not here."""
        o, ranks = self.options, self.ranks
        delay = f" {o.delay}" if o.schedule == "delayed" else ""
        crowd = f", more than its {ranks.cores} cores: they give way while waiting" if ranks.crowded else ""
        self.bar.console.print(
            f"{o.net} ({net.size:,} parameters) on {data.name} "
            f"({len(data.train):,} training samples, {data.classes} classes)\n"
            f"schedule {o.schedule}{delay}, effective batch {o.batch}, {steps} steps; "
            f"{ranks.size} ranks, {ranks.node.size} on this machine{crowd}{where}")
        self.task = self.bar.add_task("", total=steps)

    def say(self, text):
        """A line."""
        self.bar.console.print(text)

    def step(self, done, loss):
        """Move the bar, a few times a second; `loss` is this rank's."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + 0.2
        self.bar.update(self.task, completed=done, description=f"loss {loss:.3f}")

    def epoch(self, entry):
        """A line."""
        self.bar.console.print(
            f"epoch {entry['epoch']:3d}  loss {entry['train_loss']:.4f}  test accuracy {entry['test_accuracy']:7.2%}  "
            f"{entry['images_per_second']:7,.0f} images/s  exposed {entry['exposed_seconds'] / entry['seconds']:4.0%}")

    def end(self, epochs, seconds, final, hashes, beside=()):
        """The table; kinds `beside` take no time from the others."""
        total = seconds["total"]
        steps = self.bar.tasks[self.task].total
        table = Table("", "", "ms a step", "of the step", title="training, mean over the ranks")

        def row(kind, meaning, spent):
            table.add_row(kind, meaning, f"{1e3 * spent / steps:.2f}", f"{spent / total:.1%}")

        alone = [kind for kind in KINDS if kind in seconds and kind not in beside]
        for kind in alone:
            row(kind, KINDS[kind], seconds[kind])
        row("other", "the GPU has nothing to do" if beside else "the training loop itself",
            total - sum(seconds[kind] for kind in alone))
        for kind in beside:
            row(f"({kind})", f"meanwhile, on this core: {KINDS[kind]}", seconds[kind])
        self.bar.stop()
        console = self.bar.console
        console.print(table)
        console.print(f"loss {epochs[-1]['train_loss']:.4f}   test accuracy {final['test_accuracy']:.2%}   "
                      f"{steps * self.options.batch / total:,.0f} images/s   weights {final['weights_sha256'][:16]}")
        if final["planned_seconds"]:
            console.print(f"a step: {1e3 * final['planned_seconds']:.1f} ms planned,"
                          f" {1e3 * final['measured_seconds']:.1f} ms measured (median of the last)")
        if len(set(hashes)) > 1:
            console.print(f"[bold]the ranks ended with {len(set(hashes))} different sets of weights:[/] "
                          "this MPI does not sum in the same order on every rank")
