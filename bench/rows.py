"""How a row is printed for each thing measured."""

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
