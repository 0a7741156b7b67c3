"""Predict the time of a step by each schedule from a profile of computing and of the link; --validate measures it."""

import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from rich.table import Table

import nets
from bench import compare
from bench import options as shared
from bench.forecast import Forecast
from bench.rows import console
from bench.schedules import MODULE
from mpilayer.base.errors import UserError
from mpilayer.model.programs import PROGRAMS
from mpilayer.report import plots
from mpilayer.schedules import make
from mpilayer.training.optim import MomentumSGD
from mpilayer.training.options import add_messages, check_messages, settings

SCHEDULES = "oneshot,layerwise,planned,split,delayed:1,local-sgd,ps"
BASELINE = "oneshot"  # of the figure
COLUMNS = {"predicted ms": ("predicted_seconds", 1e3, ".1f"), "waiting": ("predicted_exposed_seconds", 1e3, ".1f"),
           "measured ms": ("measured_seconds", 1e3, ".1f"), "error": ("error", 1, "+.1%")}


def emulated():
    """The options of what is around the ranks, when this is to start them."""
    p = shared.Parser(add_help=False)
    p.add_argument("--hosts", type=shared.listed(shared.count), metavar="A,B,...",
                   help="start ranks on emulated hosts, one on each, so many for each run (needs root)")
    shared.add_links(p)
    p.add_argument("--net", type=shared.some(nets.NETS), default=["alexnet-mini"], metavar="A,B,...",
                   help="nets to train; several with --hosts only (default: alexnet-mini)")
    shared.add_json(p)
    plots.add_option(p, "with --hosts and --validate, speed-up over oneshot against communication / computation")
    return p


def parser():
    """All options."""
    p = shared.Parser(parents=[emulated()], prog="python -m bench predict", description=__doc__)
    p.add_argument("--batch", type=shared.count, default=16, help="samples on each rank (default: 16)")
    p.add_argument("--schedules", type=shared.listed(str), default=SCHEDULES.split(","), metavar="A,B,...",
                   help=f"{shared.SPEC} (default: {SCHEDULES})")
    p.add_argument("--validate", action="store_true", help="measure the steps as well, and show the errors")
    p.add_argument("--steps", type=shared.count, default=5, help="timed steps of each schedule in a round (default: 5)")
    p.add_argument("--rounds", type=shared.count, default=3, help="schedules take turns in each (default: 3)")
    add_messages(p)
    return p


def _how(keywords):
    """What the simulation knows of a schedule's keyword arguments."""
    return {name: value for name, value in keywords.items() if name in ("delay", "period")}


def _candidates(ranks, options):
    """{name: the main job's options} of the schedules. Raises UserError for what cannot be predicted."""
    if ranks.size == 1:
        raise UserError("one rank has nobody to talk to | try: mpiexec -n 2 python -m bench predict, or --hosts 2")
    if len(options.net) > 1:
        raise UserError(f"--net {','.join(options.net)} | expected one net | try: several with --hosts only")
    found = {name: compare.options_of(name, [], ranks.size) for name in options.schedules}
    for name, each in found.items():
        if each.schedule not in PROGRAMS:
            raise UserError(f"--schedules {name} | there is no simulation of {each.schedule}"
                            f" | expected some of {', '.join(PROGRAMS)}")
    return found


def predicted(forecast, candidates):
    """{name: Prediction} of {name: the main job's options}."""
    return {name: forecast.predict(options.schedule, **_how(make.CHOICE.keywords(options)))
            for name, options in candidates.items()}


def measure(ranks, options, say):
    """All figures on the ranks of this job."""
    candidates = ranks.agree(lambda: _candidates(ranks, options))
    workload = compare.Workload(ranks, nets.build(options.net[0]), options.batch)
    workload.prepare(settings(options), say)
    forecast = Forecast(ranks, workload.net, workload.batch, MomentumSGD(workload.net, compare.RATE), workload.settings)
    rows = {name: {"schedule": name, "predicted_seconds": found.seconds, "predicted_exposed_seconds": found.exposed}
            for name, found in predicted(forecast, candidates).items()}
    if options.validate:
        made = {name: compare.Candidate(workload, candidates[name]) for name in rows}
        readings = compare.take_turns(workload, made, options.rounds, options.steps, lambda text: None)
        for row in compare.rows(workload, made, readings):
            seconds = row["iteration_seconds"]
            rows[row["schedule"]] |= {"measured_seconds": seconds, "compute_seconds": row["compute_seconds"],
                                      "communication_seconds": row["communication_seconds"],
                                      "error": rows[row["schedule"]]["predicted_seconds"] / seconds - 1}
    wire = forecast.wire
    return {"net": options.net[0], "batch": options.batch, "ranks": ranks.size, "crowded": ranks.crowded,
            "profile_seconds": forecast.profile.compute, "rows": list(rows.values()),
            "wire": {"idle": wire.idle, "busy": wire.busy, "core": wire.core, "credit": wire.credit,
                     "direct": wire.direct}}


def show(figures, say):
    """A table."""
    wire = figures["wire"]
    table = Table("", *COLUMNS, title=f"{figures['net']}, batch {figures['batch']} a rank, {figures['ranks']} ranks; "
                  f"computing {1e3 * figures['profile_seconds']:.1f} ms; link {wire['idle']}, beside computing "
                  f"{wire['busy']}, which takes {wire['core']} from it; {wire['credit'] / 1e3:.0f} kB pass at once")
    for row in figures["rows"]:
        table.add_row(row["schedule"], *(f"{factor * row[key]:{form}}" if key in row else ""
                                         for key, factor, form in COLUMNS.values()))
    say(table)


def summary(found):
    """Of the errors of all rows: (how many, median, share within 15%)."""
    errors = np.array([abs(row["error"]) for figures in found for row in figures["rows"] if "error" in row])
    return len(errors), statistics.median(errors), float((errors <= 0.15).mean())


def draw(found, path):
    """A panel for each number of hosts and net: predicted lines over the rates, and measured points."""
    panels = list(dict.fromkeys((figures["hosts"], figures["net"]) for figures in found))
    figure = plots.figure(figsize=(3.6 * len(panels), 3.2))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        lines = {}
        for figures in found:
            rows = {row["schedule"]: row for row in figures["rows"]}
            first = rows[BASELINE]
            ratio = first["communication_seconds"] / first["compute_seconds"]
            for name, row in rows.items() if (figures["hosts"], figures["net"]) == panel else ():
                gains = (first[key] / row[key] for key in ("predicted_seconds", "measured_seconds"))
                lines.setdefault(name, []).append((ratio, *gains))
        for number, (name, points) in enumerate(lines.items()):
            x, predicted, measured = zip(*sorted(points), strict=True)
            axes.plot(x, predicted, label=name, **plots.style(number))
            axes.plot(x, measured, "o", markersize=3, color=plots.style(number)["color"])
        axes.set_title(f"{panel[1]}, {panel[0]} hosts (lines: predicted)", loc="left", fontsize=8)
        plots.finish(axes, "communication / computation", "times as fast as oneshot")
    plots.save(figure, path)


def _check_plot(options):
    if options.plot and not (options.hosts and options.validate and BASELINE in options.schedules):
        raise UserError(f"--plot shows what was measured at several rates, next to {BASELINE} | try: with --hosts,"
                        f" --validate, and {BASELINE} among --schedules")


def inside(argv):
    """On the ranks of this job."""
    with shared.job(parser(), argv) as (ranks, options):
        ranks.agree(lambda: shared.check_links(options))
        ranks.agree(lambda: check_messages(options))
        ranks.agree(lambda: _check_plot(options))
        ranks.agree(lambda: shared.check_files(options, ranks.rank))
        say = console(ranks.rank, width=150).print
        figures = measure(ranks, options, say)
        show(figures, say)
        ranks.agree(lambda: shared.save(options, figures) if ranks.rank == 0 else None)


def around(argv):
    """On emulated hosts, for each of their numbers, rates and nets."""
    from bench.cluster import Hosts

    outer, rest = emulated().parse_known_args(argv)
    _check_plot(parser().parse_args(argv))
    shared.check_files(outer)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in outer.hosts:
            with Hosts(count, outer.rate[0], outer.latency) as hosts:
                for rate in outer.rate:
                    hosts.shape(rate)
                    for net in outer.net:
                        late = f", {1e3 * outer.latency:g} ms" if outer.latency else ""
                        print(f"{count} hosts, {shared.show_rate(rate)}{late}", flush=True)
                        file = Path(folder, "figures.json")
                        status = hosts.run([*MODULE, "bench", "predict", "--net", net, *rest, "--json", str(file)],
                                           OMP_NUM_THREADS="1")
                        if status:
                            raise SystemExit(status)
                        found.append({"hosts": count, "rate": rate, "latency": outer.latency,
                                      **json.loads(file.read_text())})
    for crowded in (False, True):
        some = [figures for figures in found if figures["crowded"] == crowded and "error" in figures["rows"][0]]
        if some:
            rows, median, share = summary(some)
            print(f"{'ranks that share cores' if crowded else 'a core for each rank'}: {rows} rows, median error"
                  f" {median:.1%}, within 15% {share:.0%}")
    shared.save(outer, found, draw)


def main(argv):
    """Predict, print, and save."""
    (around if any(word.startswith("--hosts") for word in argv) else inside)(argv)
