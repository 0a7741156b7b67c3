"""What rank 0 shows: a progress bar, a line for each epoch, a table at the end."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kernels import num_threads
from mpilayer.base.terminal import launcher_on_terminal
from mpilayer.base.tracing import KINDS
from mpilayer.training.meter import WAITING

WORTH = 1.05  # times as long, from which on it is said in which layers
MOST_LAYERS = 3  # that are named


class PipedConsole(Console):
    """Leaves it to the job what to do when nobody reads on."""

    def on_broken_pipe(self):
        """Called where BrokenPipeError was raised."""
        raise BrokenPipeError


class Display:
    """Everything shown while training, on rank 0; nothing with --quiet."""

    def __init__(self, ranks, *, batch, quiet=False):
        self.ranks, self.batch, self.next_look = ranks, batch, 0.0
        console = PipedConsole(quiet=quiet, highlight=False,
                               force_terminal=launcher_on_terminal() or None)
        self.bar = Progress(TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"),
                            TimeRemainingColumn(), console=console, transient=True, disable=console.quiet)

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *failure):
        self.bar.stop()

    def begin(self, name, net, data, schedule, steps, where=""):
        """Say what will be done: with a net of that name, a schedule in words, and `where`, if not on CPUs."""
        ranks = self.ranks
        crowd = f", more than its {ranks.cores} cores: they give way while waiting" if ranks.crowded else ""
        self.bar.console.print(
            f"{name} ({net.size:,} parameters) on {data.name} "
            f"({len(data.train):,} training samples, {data.classes} classes)\n"
            f"schedule {schedule}, effective batch {self.batch}, {steps} steps; "
            f"{ranks.size} ranks, {ranks.node.size} on this machine{crowd}{where}")
        if ranks.size == num_threads() == 1 < ranks.cores and not where:
            self.say(f"one of {ranks.cores} cores computes"
                     f" | try: mpiexec -n {ranks.cores} python -m mpilayer.train ...")
        self.task = self.bar.add_task("", total=steps)

    def say(self, text):
        """A line."""
        self.bar.console.print(text, soft_wrap=True)

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

    def end(self, epochs, seconds, final, beside=()):
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
                      f"{steps * self.batch / total:,.0f} images/s   weights {final['weights_sha256'][:16]}")
        if final["slowest"]:
            console.print(slowest_said(final["slowest"], final["layers"]), soft_wrap=True)
        if final["planned_seconds"] and final["measured_seconds"]:
            console.print(f"a step: {1e3 * final['planned_seconds']:.1f} ms planned,"
                          f" {1e3 * final['measured_seconds']:.1f} ms measured (median of the last)")


def slowest_said(slowest, layers):
    """In words: which rank computes longest, and in which layers; `slowest` and `layers` as in run.json."""
    said = (f"slowest of the ranks: {slowest['rank']} ({slowest['host']}), which computes {slowest['times']:.2f} times"
            " as long as the median of the others")
    more = {name: each["slowest"] - each["mean"] for name, each in layers.items() if not name.startswith(WAITING)}
    most = sorted(more, key=more.get, reverse=True)[:MOST_LAYERS]
    where = ", ".join(f"{name} {1e3 * more[name]:.2f}" for name in most)
    return said if slowest["times"] < WORTH else f"{said}: ms a step beyond the mean, {where}"
