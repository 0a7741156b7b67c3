"""Draw a training step of each run: what every rank did when, and which messages were in flight."""

import argparse
from pathlib import Path

from mpilayer.base.errors import UserError
from mpilayer.report import plots
from mpilayer.report.timeline import drawn, step


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m bench timeline", description=__doc__)
    p.add_argument("runs", nargs="+", type=Path, help="folder of mpilayer.train --out, or its timeline.json")
    plots.add_option(p, "the steps", required=True)
    p.add_argument("--step", type=int, help="number of the step (default: the last)")
    p.add_argument("--ranks", type=int, default=2, metavar="R", help="draw the first R ranks (default: 2)")
    return p


def main(argv):
    """Read, draw, and say where."""
    options = parser().parse_args(argv)
    if options.ranks < 1:
        raise UserError(f"--ranks {options.ranks} | expected a positive number")
    plots.save(drawn([step(path, options.step, options.ranks) for path in options.runs]), options.plot)
    print(f"wrote {options.plot}")
