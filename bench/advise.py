"""Which schedule for a cluster: the time of a step by each, from a profile of computing and a model of the network."""

import json
from pathlib import Path

import numpy as np
from rich.table import Table

import nets
from bench import options as shared
from bench.compare import RATE
from bench.forecast import computing
from bench.rows import console
from mpilayer.base.cli import number, positive
from mpilayer.base.errors import UserError
from mpilayer.base.files import replacing
from mpilayer.compression import COMPRESSORS
from mpilayer.exchange.messages import buckets_of
from mpilayer.model.networks import NETWORKS, Direct, Network, link_of, wire_of
from mpilayer.model.profile import Profile
from mpilayer.model.programs import WHOLE_LAYERS, Work
from mpilayer.model.step import predict, spread
from mpilayer.model.wire import NOTHING
from mpilayer.report import plots
from mpilayer.training.batch import Batch
from mpilayer.training.optim import MomentumSGD

CANDIDATES = {  # name: (schedule, options of the simulation, staleness in steps, copies of the weights beside w and g)
    "oneshot": ("oneshot", {}, "0", 0),
    "layerwise": ("layerwise", {}, "0", 0),
    "planned": ("planned", {}, "0", 0),
    "split": ("split", {}, "0", 1),
    "delayed:1": ("delayed", {"delay": 1}, "1", 1),
    "delayed:2": ("delayed", {"delay": 2}, "2", 2),
    "local-sgd": ("local-sgd", {"period": 10}, "own steps: 10", 4),
    "diloco": ("diloco", {"period": 20}, "own steps: 20", 5),
    "ps": ("ps", {}, "0", 1),
}
EXACT = "oneshot", "layerwise", "planned", "split"
RANKS = [2**power for power in range(1, 17)]
DRAWN = 60  # steps whose jitter is drawn
ALIKE, WORTH = 1.01, 1.1  # times as fast: as good as equal; worth that gradients are late


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench advise", description=__doc__)
    p.add_argument("--net", choices=nets.NETS, default="resnet50", help="net to train (default: resnet50)")
    p.add_argument("--batch", type=shared.count, default=32, help="samples on each rank (default: 32)")
    p.add_argument("--ranks", type=shared.count, default=64, help="how many (default: 64)")
    p.add_argument("--per-node", type=shared.count, default=1, help="of which so many share a node (default: 1)")
    p.add_argument("--network", choices=NETWORKS, default="25gbit-ethernet", help="(default: 25gbit-ethernet)")
    p.add_argument("--rate", type=shared.rate, help="another rate of a node's link, as in 100gbit")
    p.add_argument("--latency", type=shared.seconds, help="another latency, as in 2us")
    p.add_argument("--profile", type=Path, metavar="FILE", help="times of computing that --save-profile has written"
                   " (default: measured here, on one core)")
    p.add_argument("--save-profile", type=Path, metavar="FILE", help="write the times of computing to this file")
    p.add_argument("--step-seconds", type=positive, metavar="S",
                   help="computing takes so long a step: the profile is scaled, as for a faster processor")
    p.add_argument("--spare-core", action="store_true", help="messages are moved, and numbers added, by a core of their"
                   " own, a GPU or the network (default: by the core that computes)")
    p.add_argument("--slow", type=positive, default=1.0, metavar="FACTOR",
                   help="one rank computes so many times as long (default: 1)")
    p.add_argument("--jitter", type=number(float, 0, "a number from 0 to 1", 1), default=0.0, metavar="SHARE",
                   help="standard deviation of the computing of a step, from rank to rank and step to step, as a share"
                   " of it (default: 0)")
    shared.add_json(p)
    plots.add_option(p, "efficiency against ranks")
    return p


def measured(net, size):
    """The Profile of a net on this core."""
    batch = Batch(*net.example(size, np.random.default_rng(0)), size)
    return computing(net, batch, MomentumSGD(net, RATE))


def read(path, net, name):
    """A Profile of a net from its file. Raises UserError."""
    try:
        found = Profile(*json.loads(path.read_text()))
        layers, there = {layer.name for layer in net.layers}, [set(found.forward), set(found.backward)]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--profile {path} | {error} | expected what --save-profile has written") from None
    if there != [layers, layers]:
        raise UserError(f"--profile {path} | is of another net | expected the layers of {name} | try: another --net")
    return found


def save_profile(path, profile):
    """Write it. Raises UserError."""
    try:
        with replacing(path) as file:
            json.dump(profile, file)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}) | try: another --save-profile") from None


def network_of(options):
    """The Network that is asked for."""
    found = NETWORKS[options.network]
    return Network(options.rate or found.rate, options.latency or found.latency, found.cpu, found.source)


def rows(net, profile, network, options, ranks=None):
    """A dictionary for each schedule, on --ranks or so many ranks."""
    ranks = ranks or options.ranks
    per_node = min(options.per_node, ranks)
    factors = spread(ranks, options.slow, options.jitter, DRAWN, np.random.default_rng(0))
    link, sums = link_of(network, ranks, per_node), wire_of(network, ranks, per_node)
    wires = {"ps": wire_of(network, ranks, per_node, kind=Direct)}
    if options.spare_core:
        sums, wires = sums._replace(core=NOTHING), {name: wire._replace(core=NOTHING) for name, wire in wires.items()}
    cuts = {whole: buckets_of(net, COMPRESSORS["float32"](), 0 if whole else link.bucket, None if whole else link.chunk,
                              ranks) for whole in (False, True)}
    size, found = net.weights.nbytes, []
    for name, (schedule, how, staleness, copies) in CANDIDATES.items():
        work = Work(profile, net.layers, cuts[schedule in WHOLE_LAYERS])
        step = predict(schedule, work, wires.get(schedule, sums), factors=factors, **how)
        found.append({"schedule": name, "seconds": step.seconds, "exposed_seconds": step.exposed,
                      "efficiency": profile.compute / step.seconds, "staleness": staleness,
                      "memory": (3 + copies) * size})
    return found


def recommended(found):
    """(the fastest exact schedule's row, that of the fastest of all if it is worth a word, else None)."""
    exact = [row for row in found if row["schedule"] in EXACT]
    least = min(row["seconds"] for row in exact)
    exact = next(row for row in exact if row["seconds"] < ALIKE * least)  # the simplest one
    fastest = min(found, key=lambda row: row["seconds"])
    return exact, fastest if exact["seconds"] > WORTH * fastest["seconds"] else None


def changes(net, profile, network, options, best):
    """The next larger batch, by doubling, for which another exact schedule is best; None."""
    for doubling in range(1, 8):
        factor = 2**doubling
        found = rows(net, profile.scaled(factor), network, options)
        exact, _ = recommended(found)
        if exact["schedule"] != best:
            return options.batch * factor, f"{exact['schedule']} is best"
    return None


def advice(net, profile, network, options, found):
    """The recommendation in a few sentences."""
    exact, other = recommended(found)
    gain = found[0]["seconds"] / exact["seconds"]
    text = f"{exact['schedule']}: {exact['efficiency']:.0%} of what computing alone would reach, "
    text += (f"{gain:.2f} times as fast as oneshot, with the same numbers." if exact is not found[0] else
             f"for it waits for {exact['exposed_seconds'] / exact['seconds']:.1%} of a step only.")
    if other:
        text += (f" {other['schedule']} would be {exact['seconds'] / other['seconds']:.2f} times as fast as that, with"
                 " gradients or weights that are late: see docs/results.md for what that costs.")
    if found := changes(net, profile, network, options, exact["schedule"]):
        text += f" From a batch of {found[0]} on, {found[1]}."
    return text


def draw(net, profile, network, options, path):
    """Efficiency against ranks."""
    figure = plots.figure(figsize=(6, 4))
    axes, points = figure.subplots(), {name: [] for name in CANDIDATES}
    for ranks in RANKS:
        for row in rows(net, profile, network, options, ranks):
            points[row["schedule"]].append((ranks, row["efficiency"]))
    for name, line in points.items():
        axes.semilogx(*zip(*line, strict=True), base=2, marker="o", markersize=3, label=name,
                      **plots.style(len(axes.lines)))
    axes.set_ylim(0, 1.02)
    axes.set_title(f"{options.net}, {1e3 * profile.compute:.0f} ms of computing a step, {options.network},"
                   f" {options.per_node} ranks a node (predicted)", loc="left", fontsize=9)
    plots.finish(axes, "ranks", "efficiency: computing alone / step")
    plots.save(figure, path)


def show(options, network, profile, found, say):
    """A table."""
    table = Table("", "ms a step", "efficiency", "waiting ms", "staleness", "MB a rank", title=(
        f"{options.net}, batch {options.batch} a rank, {options.ranks} ranks, {options.per_node} a node;"
        f" {1e3 * profile.compute:.1f} ms of computing; {shared.show_rate(network.rate)}, {1e6 * network.latency:.1f}"
        " us (predicted)"))
    for row in found:
        table.add_row(row["schedule"], f"{1e3 * row['seconds']:.1f}", f"{row['efficiency']:.0%}",
                      f"{1e3 * row['exposed_seconds']:.1f}", row["staleness"], f"{row['memory'] / 1e6:.0f}")
    say(table)


def main(argv):
    """Predict, print, and save."""
    options = parser().parse_args(argv)
    shared.check_files(options)
    if options.ranks == 1:
        raise UserError("--ranks 1 | one rank has nobody to talk to | expected 2 or more")
    if options.ranks % options.per_node:
        raise UserError(f"--per-node {options.per_node} does not divide the {options.ranks} ranks")
    net, network, say = nets.build(options.net), network_of(options), console(width=150).print
    profile = read(options.profile, net, options.net) if options.profile else measured(net, options.batch)
    if options.save_profile:
        save_profile(options.save_profile, profile)
    if options.step_seconds:
        profile = profile.scaled(options.step_seconds / profile.compute)
    found = rows(net, profile, network, options)
    show(options, network, profile, found, say)
    say(advice(net, profile, network, options, found))
    say(f"network: {network.source}")
    shared.save(options, found, lambda _, path: draw(net, profile, network, options, path))
