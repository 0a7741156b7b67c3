"""Pictures: their formats, and what is said where one cannot be drawn or written."""

import argparse
from pathlib import Path

from mpilayer.base.errors import UserError

FORMATS = (".png", ".svg", ".pdf")
STYLES = ("-", "--", ":")  # of lines, when the colours have been used up


def picture(text):
    """A file that a picture can be written to, for argparse."""
    path = Path(text)
    if path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"expected a name that ends in {', '.join(FORMATS)}, got {text!r}")
    return path


def add_option(p, what, **more):
    """--plot."""
    p.add_argument("--plot", type=picture, **more, metavar="FILE", help=f"draw {what}, as {', '.join(FORMATS)}")


def figure(**options):
    """An empty Matplotlib figure. Raises UserError if Matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('drawing needs Matplotlib | try: pip install -e ".[plot]"') from None
    return Figure(layout="constrained", **options)


def style(number):
    """Of the line with that number: colours first, then other strokes."""
    return {"color": f"C{number % 10}", "linestyle": STYLES[number // 10 % len(STYLES)]}


def save(figure, path):
    """Write the picture. Raises UserError."""
    try:
        figure.savefig(path, dpi=200)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}) | try: another --plot") from None


def finish(axes, x, y, legend=True):
    """Label the axes, name the lines unless they are named elsewhere, and leave out what is not needed."""
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    if legend:
        axes.legend(fontsize=7, frameon=False)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
