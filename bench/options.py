"""Options that measurements share."""

import argparse
import json
from pathlib import Path

from mpilayer.errors import UserError
from mpilayer.files import replacing


def count(text):
    """A positive whole number, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def add(p, peers, rounds):
    """--batch, --peer (a key of `peers`), --rounds and --json."""
    p.add_argument("--batch", type=count, default=16, help="images (default: 16)")
    p.add_argument("--peer", choices=peers, help="measure this as well, in turn with ours (default: nothing)")
    p.add_argument("--rounds", type=count, default=rounds, help=f"readings of each time, at least (default: {rounds})")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")


def check(options):
    """Raise UserError at once for a file that could not be written at the end."""
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {options.json.parent}")


def save(options, figures):
    """Write the figures if --json asks for it."""
    if options.json:
        with replacing(options.json) as file:
            json.dump(figures, file, indent=1)
