"""A page of what runs have left in their folders, side by side: `python -m mpilayer.report RUN... OUT.html`."""

import argparse
from pathlib import Path

from mpilayer.base.cli import Parser
from mpilayer.base.errors import UserError
from mpilayer.base.files import replacing
from mpilayer.base.terminal import run_alone
from mpilayer.report.page import page
from mpilayer.report.runs import RUN, read


def _html(text):
    if not text.endswith((".html", ".htm")):
        raise argparse.ArgumentTypeError(f"expected a name that ends in .html, got {text!r}")
    return Path(text)


def parser():
    """All options."""
    p = Parser(prog="python -m mpilayer.report", description=__doc__)
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of mpilayer.train --out")
    p.add_argument("out", type=_html, metavar="OUT.html", help="the page, one file that needs no network")
    return p


def write(options):
    """Read, draw, write. Raises UserError."""
    runs = [read(folder) for folder in options.runs]
    try:
        text = page(runs)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"a {RUN} is not as this version of mpilayer writes it ({type(error).__name__}: {error})"
                        " | try: each RUN alone, to see which") from None
    try:
        with replacing(options.out) as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write {options.out} ({error.strerror}) | try: another OUT.html") from None
    print(f"wrote {options.out}")


def main(argv=None):
    """Entry point."""
    run_alone(write, parser(), argv)


if __name__ == "__main__":
    main()
