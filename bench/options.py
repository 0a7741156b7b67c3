"""Options that measurements share."""

import argparse
import json
from pathlib import Path

import kernels
from mpilayer.errors import UserError
from mpilayer.files import replacing


def count(text):
    """A positive whole number, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def add(p, peers, rounds):
    """--peer (a key of `peers`, if there are any), --rounds, --threads and --json."""
    if peers:
        p.add_argument("--peer", choices=peers, help="measure this as well, in turn with ours (default: nothing)")
    p.add_argument("--rounds", type=count, default=rounds, help=f"readings of each time, at least (default: {rounds})")
    p.add_argument("--threads", type=count, default=1, help="of ours and of the peer (default: 1)")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")


def begin(options):
    """Set the threads. Raise UserError at once for a file that could not be written at the end."""
    kernels.set_num_threads(options.threads)
    if options.json and not options.json.parent.is_dir():
        raise UserError(f"--json {options.json}: there is no folder {options.json.parent}")


def threads(options):
    """How many, in words."""
    return "one thread" if options.threads == 1 else f"{options.threads} threads"


def save(options, figures):
    """Write the figures if --json asks for it."""
    if options.json:
        with replacing(options.json) as file:
            json.dump(figures, file, indent=1)
