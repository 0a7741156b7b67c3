"""Draw a training step of each run: what every rank did when, and which messages were in flight."""

import json
import re
from collections import defaultdict
from typing import NamedTuple

from mpilayer.base.errors import UserError
from mpilayer.report import plots

MARKS = {  # label and colour; the colours of Okabe and Ito stay apart for the colour-blind
    "input": ("reading the batch", "#CC79A7"),
    "forward": ("forward", "#56B4E9"),
    "backward": ("backward", "#0072B2"),
    "update": ("update", "#009E73"),
    "mpi": ("moving messages between kernels", "#F0E442"),
    "exposed": ("exposed (only waiting)", "#D55E00"),
    "waiting": ("this core waits", "#DDDDDD"),
    "out": ("copies out", "#E69F00"),
    "back": ("copies back", "#8C6D31"),
    "request": ("messages of a layer, start to completion", "#999999"),
}
ROW, TALL = 0.13, 2  # inches a request, and how many of them the work of a rank is tall, or more if it has more lanes


class Span(NamedTuple):
    """Something that took time; `mark` is a key of MARKS, times are in milliseconds.

    `lane`: who did it; with a GPU this core is the first, it the second, copies out and back are the others.
    """

    rank: int
    mark: str
    name: str
    start: float
    end: float
    lane: int = 0


class Step(NamedTuple):
    """A training step: its title, its end (it begins at 0), and (work, requests) of each rank meanwhile."""

    title: str
    end: float
    ranks: dict


def _spans(events):
    """The spans of a list of Chrome's trace events."""
    posted = {event["id"]: event["ts"] for event in events if event["ph"] == "b"}
    for event in events:
        rank, start = event["pid"], event.get("ts", 0) / 1e3
        if event["ph"] == "X":
            mark = event["name"].split()[0] if event["cat"] == "compute" else event["cat"]
            yield Span(rank, mark, event["name"], start, start + event["dur"] / 1e3, event["tid"])
        elif event["ph"] == "e":
            yield Span(rank, "request", event["name"], posted[event["id"]] / 1e3, start)


def read(path):
    """{rank: its spans} of a timeline.json. Raises UserError."""
    ranks, wanted = defaultdict(list), "expected the timeline.json that mpilayer.train --out writes"
    try:
        for span in _spans(json.loads(path.read_text())["traceEvents"]):
            ranks[span.rank].append(span)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}) | {wanted}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UserError(f"{path} is no timeline | {wanted}") from None
    marks = {span.mark for spans in ranks.values() for span in spans}
    if not marks <= MARKS.keys() or not ranks or not all(map(_starts, ranks.values())):
        raise UserError(f"{path} has no training step of every rank | {wanted}")
    return dict(sorted(ranks.items()))


def _starts(spans):
    """When each step began: it reads its batch first."""
    return [span.start for span in spans if span.name == "read batch"]


def _numbers(spans):
    """The numbers of the steps. A request has its step's in brackets, and the last step has requests."""
    count = len(_starts(spans))
    named = [int(found[1]) for span in spans if (found := re.search(r"\((\d+)\)$", span.name))]
    last = max(named, default=count - 1)
    return range(last - count + 1, last + 1)


def _extent(spans, index):
    """(start, end) of a step on one rank: all it does before it reads the next batch."""
    start, following = [*_starts(spans), float("inf")][index:index + 2]
    return start, max(s.end for s in spans if s.mark != "request" and start <= s.start < following)


def _cut(spans, start, end):
    """(work, requests) between two times, which become 0 and the end, in order of their start."""
    within = [span._replace(start=max(span.start - start, 0), end=min(span.end, end) - start)
              for span in sorted(spans, key=lambda span: span.start) if span.start < end and span.end > start]
    return [s for s in within if s.mark != "request"], [s for s in within if s.mark == "request"]


def _schedule(folder):
    """The schedule as run.json has it, else the folder's name."""
    try:
        config = json.loads((folder / "run.json").read_text())["config"]
        return f"{config['schedule']} {config['delay']}" if config["delay"] else config["schedule"]
    except (OSError, ValueError, KeyError, TypeError):
        return folder.resolve().name


def step(path, number, count):
    """The Step with that number (None: the last) of the first `count` ranks. Raises UserError."""
    path = path / "timeline.json" if path.is_dir() else path
    ranks = dict(list(read(path).items())[:count])
    numbers = _numbers(next(iter(ranks.values())))
    number = numbers[-1] if number is None else number
    if number not in numbers:
        raise UserError(f"{path} has no step {number} | expected one of {numbers[0]} to {numbers[-1]}")
    starts, ends = zip(*(_extent(spans, numbers.index(number)) for spans in ranks.values()), strict=True)
    start, end = min(starts), max(ends)
    return Step(f"{_schedule(path.parent)}, step {number}", end - start,
                {rank: _cut(spans, start, end) for rank, spans in ranks.items()})


def _by_layer(requests):
    """{layer (step): its requests}: a large layer travels in many pieces, named "fc6 3/36 (5)"."""
    rows = defaultdict(list)
    for request in requests:
        rows[re.sub(r" \d+/\d+", "", request.name)].append(request)
    return rows


def _lanes(step):
    """Those of all ranks."""
    return sorted({span.lane for work, _ in step.ranks.values() for span in work})


def _tall(step):
    return max(TALL, len(_lanes(step)))


def _rows(step):
    return sum(_tall(step) + len(_by_layer(requests)) for _, requests in step.ranks.values())


def _bars(axes, spans, middle, height):
    for span in spans:
        axes.broken_barh([(span.start, span.end - span.start)], (middle - height / 2, height),
                         color=MARKS[span.mark][1], linewidth=0)


def _panel(axes, step):
    """One run: from the top, the work of a rank and below it its requests, then the next rank."""
    top, ticks, tall, lanes = 0, {}, _tall(step), _lanes(step)
    high = tall / len(lanes)
    for rank, (work, requests) in step.ranks.items():
        ticks[top + tall / 2] = f"rank {rank}"
        for number, lane in enumerate(lanes):
            _bars(axes, [span for span in work if span.lane == lane], top + (number + 0.5) * high, 0.8 * high)
        rows = _by_layer(requests)
        for row, (label, pieces) in enumerate(rows.items(), start=top + tall):
            ticks[row + 0.5] = label
            _bars(axes, pieces, row + 0.5, 0.5)
        top += tall + len(rows)
    axes.set_yticks(list(ticks), ticks.values(), fontsize=6)
    axes.set_ylim(top, 0)
    axes.set_title(step.title, loc="left", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def drawn(steps):
    """A figure with a panel for each step, one above the other, on one time axis."""
    rows = [_rows(step) for step in steps]
    figure = plots.figure(figsize=(7, 1 + sum(rows) * ROW + 0.35 * len(rows)))
    from matplotlib.patches import Patch

    panels = figure.subplots(len(steps), sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for axes, one in zip(panels, steps, strict=True):
        _panel(axes, one)
    panels[-1].set_xlim(0, max(one.end for one in steps))
    panels[-1].set_xlabel("ms since the step began", fontsize=8)
    panels[-1].tick_params(axis="x", labelsize=7)
    seen = {span.mark for one in steps for spans in one.ranks.values() for span in (*spans[0], *spans[1])}
    figure.legend(handles=[Patch(color=colour, label=label) for mark, (label, colour) in MARKS.items() if mark in seen],
                  loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure
