"""What the commands share that print a row for each thing measured."""

import argparse
import json

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mpilayer.errors import UserError
from mpilayer.files import replacing


def positive(text):
    """The type of an option that is a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


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


def writable(file):
    """Raise UserError if the option --json names a file that cannot be."""
    if file and not file.parent.is_dir():
        raise UserError(f"--json {file}: there is no folder {file.parent}")


def save(rows, file):
    """Write the rows to the file, if there is to be one."""
    if file:
        with replacing(file) as stream:
            json.dump(rows, stream, indent=1)
