"""How a row is printed for each thing measured, and how progress is shown."""

import contextlib

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mpilayer.training.report import launcher_on_terminal


def show(head, rows, total, line):
    """Print the lines of `head`, the last of them bold, and each of `total` rows as it comes; (rows, a print)."""
    seen, columns = [], (TextColumn("pass"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(highlight=False, soft_wrap=True), transient=True) as bar:
        say = bar.console.print
        for text in head[:-1]:
            say(text)
        say(head[-1], style="bold")
        for row in bar.track(rows, total=total):
            seen.append(row)
            say(line(row))
    return seen, say


@contextlib.contextmanager
def counting(ranks, total):
    """(a print, a function that counts a round): rank 0 shows how many of `total` are done, the others are silent.

    The bar is drawn when a round is counted and at no other time: a thread for it would disturb what is measured.
    """
    console = Console(quiet=ranks.rank > 0, highlight=False, soft_wrap=True,
                      force_terminal=launcher_on_terminal() or None)
    with Progress(TextColumn("round"), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True,
                  auto_refresh=False, disable=console.quiet) as bar:
        task = bar.add_task("", total=total)
        yield console.print, lambda: bar.update(task, advance=1, refresh=True)
