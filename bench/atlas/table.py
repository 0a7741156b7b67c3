"""Means and intervals over seeds, as a table and as a figure."""

import math
import statistics
from collections import defaultdict

from bench.convergence import RECIPES, show
from mpilayer.report import plots

# Of Student's t, for 1 to 9 degrees of freedom: 95% lie within (Fisher and Yates, Statistical Tables, table III).
WITHIN = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
NORMAL = 1.960


def interval(values):
    """(mean, half of the 95% interval of the mean, by Student's t; None for one value)."""
    mean, n = statistics.mean(values), len(values)
    if n == 1:
        return mean, None
    factor = WITHIN[n - 2] if n - 2 < len(WITHIN) else NORMAL
    return mean, factor * statistics.stdev(values) / math.sqrt(n)


def grouped(spec, found):
    """{labels of a row: {label of a column: [record]}}, in the order of the spec."""
    groups = defaultdict(lambda: defaultdict(list))
    for record in found:
        groups[tuple(record["labels"][axis] for axis in spec.rows)][record["labels"][spec.columns]].append(record)
    return groups


def cell(records):
    """Mean and interval of a cell, in words; how many failed, if any did."""
    scores = [record["score"] for record in records if "failed" not in record]
    failed = len(records) - len(scores)
    if not scores:
        return "failed"
    mean, half = interval(scores)
    net = records[0]["labels"]["net"]
    text = show(net, mean) + (f" ± {show(net, half).removesuffix(' bits')}" if half is not None else "")
    return text + (f" ({failed} failed)" if failed else "")


def lines(spec, found):
    """The table in Markdown, line by line."""
    groups = grouped(spec, found)
    columns = list(dict.fromkeys(record["labels"][spec.columns] for record in found))
    yield f"| {' | '.join([*spec.rows, *(f'{spec.columns}: {label}' for label in columns)])} |"
    yield "|---" * (len(spec.rows) + len(columns)) + "|"
    for labels, cells in groups.items():
        yield f"| {' | '.join([*labels, *(cell(cells[label]) for label in columns)])} |"


def draw(spec, found, path):
    """A panel a net: the score against the columns' labels, a line for each row, intervals drawn."""
    groups, nets = grouped(spec, found), spec.nets
    figure = plots.figure(figsize=(6, 0.6 + 2.8 * len(nets)))
    for axes, net in zip(figure.subplots(len(nets), 1, squeeze=False)[:, 0], nets, strict=True):
        for labels, cells in groups.items():
            points = [(label, *interval(scores)) for label, records in cells.items()
                      if (scores := _scores(records, net))]
            if points:
                name = ", ".join(label for axis, label in zip(spec.rows, labels, strict=True) if axis != "net")
                _line(axes, points, name)
        axes.set_title(f"{net}: mean and 95% interval, seeds: {len(spec.seeds)}", loc="left", fontsize=8)
        plots.finish(axes, spec.columns, "bits per byte" if RECIPES[net].text else "accuracy", legend=False)
    plots.save(figure, path)


def _scores(records, net):
    """Of a net's runs that did not fail."""
    return [each["score"] for each in records if "failed" not in each and each["labels"]["net"] == net]


def _line(axes, points, name):
    """A row, with its name where it ends."""
    labels, means, halves = zip(*points, strict=True)
    drawn = axes.errorbar(labels, means, [half or 0.0 for half in halves], linewidth=1, marker="o", markersize=3,
                          capsize=2, **plots.style(len(axes.containers)))
    axes.annotate(f" {name}", (labels[-1], means[-1]), fontsize=7, va="center", color=drawn[0].get_color())
