"""How good the weights of a run are: `python -m mpilayer.evaluate RUN`, or on many ranks under mpiexec.

Loss and accuracy on the test part, of each class as well, and a confusion matrix as a picture.
"""

import math
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mpilayer.base.cli import HelpFormatter, Parser, count
from mpilayer.base.errors import UserError
from mpilayer.data import DATA, open_data, samples_of
from mpilayer.mpi.job import job
from mpilayer.trained import trained_net
from mpilayer.training.outcome import Outcome

CONFUSION = "confusion.png"
MOST = 50  # classes that have a line, and a name in the picture


def parser():
    """All options."""
    p = Parser(prog="python -m mpilayer.evaluate", description=__doc__, formatter_class=HelpFormatter, add_help=False)
    p.add_argument("--help", "-h", action="store_true", help="show this and stop")
    p.add_argument("run", nargs="?", help="folder of a run with --out, or its weights.h5")
    DATA.add(p)
    p.add_argument("--batch", type=count, default=64, help="samples at a time")
    p.add_argument("--confusion", type=Path, metavar="FILE", help=f"picture to write (default: {CONFUSION} in RUN)")
    return p


def opened(options, ranks, net, about):
    """The data: those of the run, unless the options say others."""
    asked = {name: getattr(options, name) for name in DATA.option_names() if getattr(options, name) is not None}
    form = {**about["samples"], "augment": "none"} if options.data in (None, about["data"]) else {}
    data = open_data(options.data or about["data"], ranks=ranks, like=(net.shape, net.classes), **form | asked)
    if (data.shape, data.classes) != (net.shape, net.classes):
        raise UserError(f"{data.name} has samples of {data.shape} and {data.classes} classes | expected {net.shape} and"
                        f" {net.classes}, as the net was trained on | try: --shape, or other --data")
    return data


def table(outcome):
    """A Table of the classes."""
    made = Table("class", "samples", "right", "most often taken for")
    for number, row in enumerate(outcome.confusion):
        others = np.where(np.arange(len(row)) == number, 0, row)
        taken = f"{others.argmax()} ({others.max() / row.sum():.1%})" if others.any() else ""
        made.add_row(str(number), f"{row.sum():,}", f"{row[number] / row.sum():.2%}" if row.sum() else "", taken)
    return made


def draw(path, confusion):
    """The confusion matrix as a picture, each row as shares of its class. Raises UserError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed | try: pip install 'mpilayer[plot]'") from None
    shares = confusion / np.maximum(1, confusion.sum(1, keepdims=True))
    few = len(confusion) <= MOST
    figure = Figure(figsize=(max(5, 0.3 * len(confusion)) if few else 12,) * 2, layout="constrained")
    axes = figure.add_subplot(xlabel="answer of the net", ylabel="class")
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), label="share of the class", shrink=0.8)
    if few:
        axes.set_xticks(range(len(confusion)))
        axes.set_yticks(range(len(confusion)))
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}) | try: --confusion FILE") from None


def show(options, run, data, outcome):
    """What was found, on rank 0. Raises UserError."""
    console = Console(highlight=False)
    text = f"{data.name}: {len(data.test):,} samples   loss {outcome.loss:.4f}   accuracy {outcome.accuracy:.2%}"
    if outcome.confusion is None:
        console.print(f"{text}   perplexity {math.exp(min(700, outcome.loss)):.2f}")
        return
    console.print(text)
    if len(outcome.confusion) <= MOST:
        console.print(table(outcome))
    path = options.confusion or (run if run.is_dir() else run.parent) / CONFUSION
    draw(path, outcome.confusion)
    console.print(f"confusion matrix: {path}")


def evaluate(ranks, options):
    """All of it."""
    if options.run is None:
        raise UserError("expected the folder of a run | try: python -m mpilayer.evaluate --help")
    net, weights = trained_net(options.run)
    with opened(options, ranks, net, weights.about) as data:
        images = samples_of(data.shape) == "images"
        outcome = Outcome.of(net, data.test, ranks, options.batch, confused=images)
        if ranks.rank == 0:
            show(options, Path(options.run), data, outcome)


def main(argv=None):
    """Entry point."""
    with job() as ranks:
        options = ranks.agree(lambda: parser().parse_args(sys.argv[1:] if argv is None else argv))
        if options.help:
            if ranks.rank == 0:
                parser().print_help()
            return
        evaluate(ranks, options)


if __name__ == "__main__":
    main()
