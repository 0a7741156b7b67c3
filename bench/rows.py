"""How a row is printed for each thing measured, and how progress is shown."""

import contextlib

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mpilayer.base.terminal import launcher_on_terminal


def console(rank=0, **more):
    """Where rank 0 prints, and nobody else; long lines stay whole."""
    return Console(quiet=rank > 0, highlight=False, soft_wrap=True, **more)


def compared(mine, theirs):
    """What a row says of our seconds and of {way: seconds} of the peer, of which the best counts; None without one."""
    best = min((seconds for seconds in theirs.values() if seconds), default=None)
    return {"seconds": mine, "peer": theirs, "peer_seconds": best, "ratio": best and best / mine}


def peer_cells(row):
    """The columns of the peer as text."""
    if not row["ratio"]:
        return {"peer": "", "ratio": ""}
    return {"peer": f"{1e3 * row['peer_seconds']:.3f}", "ratio": f"{row['ratio']:.2f}"}


def show(head, rows, total, line):
    """Print the lines of `head`, the last of them bold, and each of `total` rows as it comes; (rows, a print)."""
    seen, columns = [], (TextColumn("pass"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True) as bar:
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
    out = console(ranks.rank, force_terminal=launcher_on_terminal() or None)
    with Progress(TextColumn("round"), MofNCompleteColumn(), TimeRemainingColumn(), console=out, transient=True,
                  auto_refresh=False, disable=out.quiet) as bar:
        task = bar.add_task("", total=total)
        yield out.print, lambda: bar.update(task, advance=1, refresh=True)
