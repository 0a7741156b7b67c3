"""The figures of a report, as SVG with its text as text."""

import io

import numpy as np

from mpilayer.report import plots, timeline

KINDS = {  # label and colour, as in a timeline
    "compute": ("computing", timeline.MARKS["forward"][1]),
    "exposed": ("exposed (only waiting)", timeline.MARKS["exposed"][1]),
    "update": ("update", timeline.MARKS["update"][1]),
    "mpi": ("moving messages", timeline.MARKS["mpi"][1]),
    "input": ("reading the batch", timeline.MARKS["input"][1]),
    "other": ("other", timeline.MARKS["waiting"][1]),
}
SHOWN = 4  # ranks in a timeline
WIDTH = 9  # inches


def svg(figure):
    """The text of it, without what only a file needs."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return text.getvalue()[text.getvalue().index("<svg"):]


def progress(runs):
    """Loss of training and accuracy on the test part against steps, a line for each run; None if there are none."""
    if not any(run.losses() for run in runs):
        return None
    figure = plots.figure(figsize=(WIDTH, 3.2))
    for axes, what, points in zip(figure.subplots(1, 2), ("loss of training", "accuracy on the test part"),
                                  ("losses", "accuracies"), strict=True):
        for number, run in enumerate(runs):
            if found := list(getattr(run, points)()):
                axes.plot(*found, label=run.name, marker="o", markersize=2.5, linewidth=1.2, **plots.style(number))
        if axes.lines:
            plots.finish(axes, "step", what)
    return svg(figure)


def division(run):
    """What each rank did in a step, in milliseconds; None if that is not known."""
    rows = run.final.get("ranks") or []
    rows = [row for row in rows if row["steps"]]
    if not rows:
        return None
    figure = plots.figure(figsize=(WIDTH, 1.1 + 0.16 * len(rows)))
    axes, left, names = figure.subplots(), np.zeros(len(rows)), [f"{row['rank']} ({row['host']})" for row in rows]
    for kind, (label, colour) in KINDS.items():
        widths = np.array([_seconds(row, kind) / row["steps"] * 1e3 for row in rows])
        if widths.any():
            axes.barh(range(len(rows)), widths, left=left, label=label, color=colour, height=0.8)
        left += widths
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.invert_yaxis()
    plots.finish(axes, "ms a step", "rank")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return svg(figure)


def _seconds(row, kind):
    """Of a kind; on a GPU, what this core does beside takes no time of the rest."""
    spent = {name: value for name, value in row["seconds"].items() if name in KINDS}
    if "waiting" in row["seconds"]:
        spent |= {"mpi": 0.0, "input": 0.0}
    return max(0.0, row["seconds"]["total"] - sum(spent.values())) if kind == "other" else spent.get(kind, 0.0)


def last_step(run):
    """The timeline of it; None without one."""
    if not run.timeline:
        return None
    return svg(timeline.drawn([timeline.step(run.timeline, None, SHOWN)]))
