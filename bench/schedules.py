"""Compare schedules on one net: time of a step, exposed communication, and the least time that is possible."""

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.table import Table

import nets
from bench import compare
from bench import options as shared
from bench.kernels import open_torch
from bench.rows import console
from mpilayer.base.errors import UserError
from mpilayer.gpu import device
from mpilayer.report import plots
from mpilayer.training import slowed
from mpilayer.training.options import add_messages, check_messages, settings

SCHEDULES = "oneshot,layerwise,planned,delayed:1"
COLUMNS = {  # heading: (key of a row, factor, format)
    "ms": ("iteration_seconds", 1e3, ".1f"), "images/s": ("images_per_second", 1, ".1f"),
    "compute": ("compute_seconds", 1e3, ".1f"), "comm": ("communication_seconds", 1e3, ".1f"),
    "exposed": ("exposed_seconds", 1e3, ".1f"), "in MPI": ("mpi_seconds", 1e3, ".1f"),
    "system": ("system_seconds", 1e3, ".1f"),
    "bound": ("bound_seconds", 1e3, ".1f"), "of bound": ("bound_share", 1, ".0%"),
    "speed-up": ("speedup", 1, ".2f"), "efficiency": ("efficiency", 1, ".2f"),
    "late": ("staleness", 1, ".1f"), "MB sent": ("bytes_on_wire", 1e-6, ".1f")}


MODULE = (sys.executable, "-m")
PEERS = {"torch": "bench.peer_ddp"}


def _batch(text):
    return text if text == "balance" else shared.count(text)


def emulated():
    """The options of what is around the ranks, when this is to start them."""
    p = shared.Parser(add_help=False)
    p.add_argument("--hosts", type=shared.count, help="start the ranks on this many emulated hosts (needs root)")
    p.add_argument("--ranks", type=shared.count, help="with --hosts: ranks in all (default: one on each)")
    shared.add_links(p)
    p.add_argument("--peer", choices=PEERS, help="with --hosts: measure PyTorch's DistributedDataParallel as well")
    shared.add_json(p)
    plots.add_option(p, "speed-ups against communication / computation")
    return p


def measurement(**how):
    """A parser of the options that are this command's own."""
    p = shared.Parser(parents=[emulated()], **how)
    p.add_argument("--net", choices=nets.NETS, default="alexnet", help="net to train (default: alexnet)")
    p.add_argument("--batch", type=_batch, default=16,
                   help="samples on each rank, or balance: computing then takes as long as communication (default: 16)")
    p.add_argument("--schedules", type=shared.listed(str), default=SCHEDULES.split(","), metavar="A,B,...",
                   help=f"the first is the baseline; {shared.SPEC}, layerwise+apply=all (default: {SCHEDULES})")
    p.add_argument("--steps", type=shared.count, default=3, help="timed steps of each schedule in a round (default: 3)")
    p.add_argument("--rounds", type=shared.count, default=3, help="schedules take turns in each (default: 3)")
    return p


def parser():
    """All options: those of mpilayer.train, as far as they are here, hold for all schedules."""
    p = measurement(prog="python -m bench schedules", description=__doc__)
    add_messages(p)
    slowed.add_options(p)
    device.add_options(p)
    return p


def complete(options, argv, ranks):
    """Check the options; those of each schedule, {name: the main job's options}. Raises UserError."""
    check_messages(options)
    _, words = measurement(add_help=False).parse_known_args(argv)
    candidates = {name: compare.options_of(name, words, ranks.size) for name in options.schedules}
    if options.device == "gpu":
        device.use(ranks, options)
    shared.check_files(options, ranks.rank)
    return candidates


def _on(options):
    return "" if options.device == "cpu" else f" on a GPU in {options.precision}"


def measure(ranks, options, candidates, say):
    """All figures on the ranks of this job; METRICS.md has the formulas."""
    size = 1 if options.batch == "balance" else options.batch
    workload = ranks.agree(lambda: compare.Workload(
        ranks, nets.build(options.net, device=options.device, precision=options.precision), size, slow=options.slow,
        jitter=options.jitter))
    workload.prepare(settings(options), say)
    batch = workload.balance() if options.batch == "balance" else options.batch
    say(f"{options.net}{_on(options)}, batch {batch} a rank, {ranks.size} ranks,"
        f" progress {workload.settings.progress}, reduction {options.reduction}, wire {options.wire}")
    candidates = {name: compare.Candidate(workload, each) for name, each in candidates.items()}
    readings = compare.take_turns(workload, candidates, options.rounds, options.steps, say)
    predictions = {name: each.prediction for name, each in candidates.items() if each.prediction}
    for name, prediction in predictions.items():
        say(f"{name}: {1e3 * prediction.seconds:.1f} ms a step predicted, {1e3 * prediction.exposed:.1f} of it exposed")
    return {"net": options.net, "batch": batch, "ranks": ranks.size, "settings": workload.settings._asdict(),
            "predicted_seconds": {name: prediction.seconds for name, prediction in predictions.items()},
            "rows": list(compare.rows(workload, candidates, readings))}


def show(figures, say):
    """The table."""
    table = Table("", *COLUMNS, title=f"{figures['net']}, batch {figures['batch']} a rank, {figures['ranks']} ranks;"
                                      " ms a step")
    for row in figures["rows"]:
        table.add_row(row["schedule"], *(f"{factor * row[key]:{form}}" if key in row else ""
                                         for key, factor, form in COLUMNS.values()))
    say(table)


def draw(found, path):
    """Speed-up over the first schedule against communication / computation; what overlap can give at most, dashed."""
    figure = plots.figure(figsize=(6, 4))
    axes, lines = figure.subplots(), defaultdict(list)
    for figures in found:
        for row in (row for row in figures["rows"] if "speedup" in row):
            ratio = row["communication_seconds"] / row["compute_seconds"]
            lines[row["schedule"]].append((ratio, row["speedup"]))
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, label=name,
                  **plots.style(len(axes.lines)))
    most = max(ratio for points in lines.values() for ratio, _ in points)
    ratios = np.linspace(0, 1.1 * most, 200)
    axes.plot(ratios, (1 + ratios) / np.maximum(1, ratios), "--", color="black", linewidth=0.8,
              label="all communication hidden: (a + b) / max(a, b)")
    axes.set_title(f"{found[0]['net']}, batch {found[0]['batch']} a rank, {found[0]['ranks']} ranks", loc="left",
                   fontsize=9)
    plots.finish(axes, "seconds of communication alone / seconds of computing alone",
                 f"seconds a step of {found[0]['rows'][0]['schedule']} / of the schedule")
    plots.save(figure, path)


def inside(argv):
    """Measure on the ranks of this job."""
    with shared.job(parser(), argv) as (ranks, options):
        ranks.agree(lambda: shared.check_links(options))
        candidates = ranks.agree(lambda: complete(options, argv, ranks))
        say = console(ranks.rank, width=150).print
        figures = measure(ranks, options, candidates, say)
        show(figures, say)
        ranks.agree(lambda: shared.save(options, [figures], draw))


def around(argv):
    """Measure on emulated hosts, at each rate; the peer before and after ours."""
    from bench.cluster import Hosts

    outer, rest = emulated().parse_known_args(argv)
    inner = parser().parse_args(rest)
    shared.check_files(outer)
    if outer.peer:
        open_torch()
        if inner.batch == "balance":
            raise UserError("--peer needs a --batch that is a number: both must have the same | try: --batch 16")
    found = []
    with Hosts(outer.hosts, outer.rate[0], outer.latency) as hosts, tempfile.TemporaryDirectory() as folder:
        for rate in outer.rate:
            hosts.shape(rate)
            peers = [_peer(hosts, outer, inner, folder)]
            figures = _started(hosts, outer, [*MODULE, "bench", "schedules", *rest], folder)[0]
            peers.append(_peer(hosts, outer, inner, folder))
            figures["rows"] += _medians(peers)
            found.append({"rate": rate, "latency": outer.latency, "hosts": outer.hosts, **figures})
            if outer.peer:
                show(found[-1], console(width=150).print)
    shared.save(outer, found, draw)


def _started(hosts, outer, words, folder):
    """What a command writes to --json; this ends with it if it fails."""
    file = Path(folder, "figures.json")
    status = hosts.run([*words, "--json", str(file)], outer.ranks, OMP_NUM_THREADS="1")
    if status:
        raise SystemExit(status)
    return json.loads(file.read_text())


def _peer(hosts, outer, inner, folder):
    """The peer's row, or None."""
    if not outer.peer:
        return None
    options = {"net": inner.net, "batch": inner.batch, "steps": inner.steps, "wire": inner.wire,
               "address": hosts.address(0)}
    return _started(hosts, outer, [*MODULE, PEERS[outer.peer], *(
        word for name, value in options.items() for word in (f"--{name}", str(value)))], folder)


def _medians(peers):
    """One row of a peer's two, a list; none if there are none."""
    if not peers[0]:
        return []
    return [{key: value if isinstance(value, str) else statistics.mean(row[key] for row in peers)
             for key, value in peers[0].items()}]


def main(argv):
    """Measure, print, and save."""
    (around if any(word.startswith("--hosts") for word in argv) else inside)(argv)
