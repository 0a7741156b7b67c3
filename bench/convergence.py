"""Train nets with several schedules and seeds: accuracy and loss against steps and against time.

Each run is `python -m mpilayer.train` with the net's recipe and the options after `--`.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from bench import options as shared
from bench.cluster import Hosts, mpiexec
from bench.rows import console
from mpilayer.base.cli import natural
from mpilayer.base.errors import UserError
from mpilayer.report import plots

FASHION = "--data fashion-mnist --augment flip --lr-policy cosine --warmup 100"


class Recipe(NamedTuple):
    """How a net is trained, and the accuracy (of text, the bits per byte) that counts as reached."""

    words: str
    target: float
    text: bool = False

    def score(self, epoch):
        """What is compared: accuracy, or bits per byte."""
        return epoch["test_loss"] / math.log(2) if self.text else epoch["test_accuracy"]

    def reached(self, score):
        """Whether that is as good as the target."""
        return score <= self.target if self.text else score >= self.target


RECIPES = {
    "alexnet-mini": Recipe(f"{FASHION} --batch 64 --epochs 5 --lr 0.02", 0.89),
    "googlenet-mini": Recipe(f"{FASHION} --batch 64 --epochs 5 --lr 0.05", 0.89),
    "resnet-mini": Recipe(f"{FASHION} --batch 128 --epochs 4 --lr 0.1", 0.91),
    "transformer-mini": Recipe("--data text --batch 16 --epochs 12 --optimizer adamw --lr 0.003 --lr-policy cosine"
                               " --warmup 50 --clip 1 --weight-decay 0.1", 2.0, text=True),
}
SCHEDULES = "oneshot,layerwise,delayed:1,delayed:2,delayed:3,delayed:auto"


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m bench convergence", description=__doc__)
    p.add_argument("--net", type=shared.some(RECIPES), default=[*RECIPES], metavar="A,B,...",
                   help=f"nets to train (default: {','.join(RECIPES)})")
    p.add_argument("--schedules", type=shared.listed(str), default=SCHEDULES.split(","), metavar="A,B,...",
                   help=f"the first is the baseline; {shared.SPEC} (default: {SCHEDULES})")
    p.add_argument("--seeds", type=shared.listed(natural), default=[0, 1, 2], metavar="A,B,...",
                   help="each schedule is run with each of these (default: 0,1,2)")
    p.add_argument("--ranks", type=shared.count, default=2, help="ranks of each run (default: 2)")
    p.add_argument("--hosts", type=shared.count, help="start the ranks on this many emulated hosts (needs root)")
    p.add_argument("--rate", type=shared.rate, default=math.inf,
                   help="with --hosts: rate of the links, as in 100mbit (default: none, no limit)")
    shared.add_json(p)
    plots.add_option(p, "accuracy against steps and seconds")
    p.add_argument("more", nargs="*", metavar="-- OPTIONS", help="options of mpilayer.train, for all runs")
    return p


@contextlib.contextmanager
def launcher(options):
    """(a function that runs words on the ranks and returns the exit status, one for the bytes all hosts have sent)."""
    if options.hosts:
        with Hosts(options.hosts, options.rate) as hosts:
            yield lambda words: hosts.run(words, options.ranks, OMP_NUM_THREADS="1"), lambda: sum(hosts.sent())
    else:
        line, environment = [mpiexec(), "-n", str(options.ranks)], {**os.environ, "OMP_NUM_THREADS": "1"}
        yield lambda words: subprocess.run([*line, *words], env=environment, check=False).returncode, None


def trained(launch, net, schedule, seed, more):
    """The record of one run, with the bytes sent. Raises UserError if it fails."""
    launch, sent = launch
    before = sent and sent()
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "mpilayer.train", "--net", net, *RECIPES[net].words.split(), *more,
                 "--schedule", schedule, "--seed", str(seed), "--quiet", "--out", folder]
        if launch(words):
            raise UserError(f"this run failed: {' '.join(words[1:-2])}")
        return json.loads(Path(folder, "run.json").read_text()) | {"bytes": sent and sent() - before}


def _mean(counts):
    """Of {staleness: how many}; None where nothing is stale or counted."""
    return counts and sum(int(late) * count for late, count in counts.items()) / sum(counts.values())


def row(net, schedule, seed, record):
    """What is kept of a run; METRICS.md has the formulas."""
    recipe, seconds, curve = RECIPES[net], 0.0, []
    for epoch in record["epochs"]:
        seconds += epoch["seconds"]
        curve.append({"epoch": epoch["epoch"], "seconds": seconds, "train_loss": epoch["train_loss"],
                      "test_loss": epoch["test_loss"], "score": recipe.score(epoch)})
    return {"net": net, "schedule": schedule, "seed": seed, "steps": record["final"]["steps"], "curve": curve,
            "final_score": curve[-1]["score"], "seconds": seconds, "bytes": record["bytes"],
            "staleness": _mean(record["final"]["staleness"]),
            "seconds_to_target": next((at["seconds"] for at in curve if recipe.reached(at["score"])), None)}


def measure(launch, options, say):
    """Yield a row for each run; schedules take turns, so that a change of the machine meets all of them."""
    for net in options.net:
        for seed in options.seeds:
            for schedule in options.schedules:
                found = row(net, schedule, seed, trained(launch, net, schedule, seed, options.more))
                say(f"{net:16} {schedule:32} seed {seed}  {show(net, found['final_score']):>10}"
                    f"  {found['seconds']:7.1f} s")
                yield found


def show(net, score):
    """A score as text."""
    return f"{score:.3f} bits" if RECIPES[net].text else f"{score:.2%}"


def _spread(values, form):
    """Mean and, of several, half of what lies between the smallest and the largest."""
    half = (max(values) - min(values)) / 2
    return f"{form(statistics.mean(values))}" + (f" ± {form(half)}" if len(values) > 1 else "")


def _some(form, values):
    """Their mean; nothing if there are none."""
    return "" if None in values else form.format(statistics.mean(values))


def grouped(rows):
    """{net: {schedule: its rows}}."""
    groups = defaultdict(lambda: defaultdict(list))
    for found in rows:
        groups[found["net"]][found["schedule"]].append(found)
    return groups


def table(net, schedules):
    """Scores, times and times to the target, means over seeds."""
    title = f"{net}, {len(next(iter(schedules.values())))} seeds; target {show(net, RECIPES[net].target)}"
    result = Table("schedule", "at the end", "seconds", "to the target", "speed-up", "late", "MB a step", title=title)
    base = statistics.mean(found["seconds"] for found in next(iter(schedules.values())))
    for schedule, found in schedules.items():
        reached = [each["seconds_to_target"] for each in found]
        seconds = [each["seconds"] for each in found]
        result.add_row(
            schedule, _spread([each["final_score"] for each in found], lambda score: show(net, score)),
            _spread(seconds, "{:.1f}".format),
            "not all reach it" if None in reached else _spread(reached, "{:.1f}".format),
            f"{base / statistics.mean(seconds):.2f}", _some("{:.1f}", [each["staleness"] for each in found]),
            _some("{:.2f}", [each["bytes"] and each["bytes"] / each["steps"] / 1e6 for each in found]))
    return result


def _line(pair, schedule, found):
    """A schedule in both panels: mean and range over seeds."""
    epochs = list(zip(*(each["curve"] for each in found), strict=True))
    steps = [found[0]["steps"] * (number + 1) / len(epochs) for number in range(len(epochs))]
    seconds = [statistics.mean(at["seconds"] for at in epoch) for epoch in epochs]
    scores = [[at["score"] for at in epoch] for epoch in epochs]
    for axes, places in zip(pair, (steps, seconds), strict=True):
        (line,) = axes.plot(places, [statistics.mean(some) for some in scores], label=schedule, linewidth=1, marker="o",
                            markersize=2.5, **plots.style(len(axes.lines)))
        axes.fill_between(places, [min(some) for some in scores], [max(some) for some in scores], alpha=0.15,
                          color=line.get_color(), linewidth=0)


def draw(figures, path):
    """A net a row: score against steps and against seconds."""
    groups = grouped(figures["rows"])
    figure = plots.figure(figsize=(8, 0.6 + 2.5 * len(groups)))
    panels = figure.subplots(len(groups), 2, squeeze=False)
    for (net, schedules), pair in zip(groups.items(), panels, strict=True):
        for schedule, found in schedules.items():
            _line(pair, schedule, found)
        score = "bits per byte of the test part" if RECIPES[net].text else "accuracy on the test part"
        for axes, unit in zip(pair, ("steps", "seconds"), strict=True):
            axes.set_title(f"{net}: mean and range, seeds: {len(found)}", loc="left", fontsize=8)
            plots.finish(axes, unit, score)

    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7,
                  frameon=False)
    plots.save(figure, path)


def main(argv):
    """Measure, print, and save."""
    options, rows = parser().parse_args(argv), []
    shared.check_files(options)
    say = console(width=150).print
    figures = {"ranks": options.ranks, "hosts": options.hosts,
               "rate": options.rate if math.isfinite(options.rate) else None, "rows": rows}
    with launcher(options) as launch:
        for found in measure(launch, options, say):
            rows.append(found)
            shared.save(options, figures)
    for net, schedules in grouped(rows).items():
        say(table(net, schedules))
    shared.save(options, figures, draw)
