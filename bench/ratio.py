"""Time of communication / time of computation, layer by layer: mpiexec -n 2 python -m bench ratio."""

import math
import statistics
import time

import numpy as np

import nets
from bench import options as shared
from bench.rows import counting
from bench.step import Step, layer_flops
from mpilayer.base.errors import UserError
from mpilayer.info import kernel_settings
from mpilayer.report import plots
from mpilayer.training.startup import warm

KINDS = {  # label and colour, apart for the colour-blind (Okabe and Ito)
    "conv": ("convolution", "#0072B2"),
    "dense": ("fully connected", "#D55E00"),
    "attention": ("attention", "#009E73"),
    "other": ("norms, embedding", "#CC79A7"),
    "net": ("whole net", "#999999"),
}
ADDED = ("parameters", "bytes", "flops", "compute_seconds", "communication_seconds")
ALONE = "one rank sends nothing | try: mpiexec -n 2 python -m bench ratio, or --rate 1gbit for a model"
LINE = "{:15} {:>11} {:>8} {:>8} {:>11} {:>11} {:>8} {:>8} {:>9} {:>9}"
HEAD = LINE.format("layer", "parameters", "MB", "GFLOP", "compute ms", "comm. ms", "ratio", "Gbit/s", "= batch",
                   "= Gbit/s")

GAP = 0.6  # of a bar, between layers and sums in the picture


class Timed:
    """Training steps of a Step, less the update, timed by layer."""

    def __init__(self, step):
        self.net, self.batch = step.net, step.batch
        for layer in self.net.layers:
            layer.backward = self._to_its_end(layer)

    def __call__(self):
        """{layer: seconds of its forward and backward}; blocks without weights belong to the layer before them."""
        self.seconds, self.last = {layer.name: 0.0 for layer in self.net.layers}, time.perf_counter()
        layer = self.net.layers[0]
        for following in self.net.forward(self.batch):
            self._lap(layer)
            layer = following
        self._lap(layer)
        for _ in self.net.backward():
            pass
        return self.seconds

    def _lap(self, layer):
        now = time.perf_counter()
        self.seconds[layer.name] += now - self.last
        self.last = now

    def _to_its_end(self, layer):
        """The layer's backward with a lap at its end: a net yields between wgrad and dgrad, which belong together."""
        backward = layer.backward

        def timed(dy):
            dx = yield from backward(dy)
            self._lap(layer)
            return dx

        return timed


def computation(ranks, timed, rounds, count):
    """{layer: seconds}: the median on each rank, of which the mean; all ranks compute at the same time."""
    timed()  # compiles, and touches the memory
    readings = []
    for _ in range(rounds):
        ranks.meet()
        readings.append(timed())
        count()
    medians = np.array([statistics.median(reading[name] for reading in readings) for name in readings[0]])
    return dict(zip(readings[0], (ranks.total(medians) / ranks.size).tolist(), strict=True))


def _sum(ranks, layer):
    """Seconds of one all-reduce of the layer's gradient."""
    ranks.meet()
    start = time.perf_counter()
    ranks.wait(ranks.comm.Iallreduce(ranks.MPI.IN_PLACE, layer.g), layer.name)
    return time.perf_counter() - start


def communication(ranks, layers, rounds, count):
    """{layer: seconds}: the median on each rank, of which the largest; nothing else runs meanwhile."""
    for layer in layers:
        layer.g[:] = 0  # sums of sums would grow beyond float32
        _sum(ranks, layer)  # opens the connections
    readings = []
    for _ in range(rounds):
        readings.append([_sum(ranks, layer) for layer in layers])
        count()
    slowest = np.max(ranks.gather(np.median(readings, axis=0)), axis=0)
    return {layer.name: float(seconds) for layer, seconds in zip(layers, slowest, strict=True)}


def wire(size, ranks):
    """Bytes each rank sends, and receives, to sum `size` bytes: a ring's, or a reduce-scatter and all-gather's."""
    return 2 * (ranks - 1) / ranks * size


def balanced(row, batch, ranks):
    """The row with its ratio, the rate on the wire, and the batch a rank or the rate that would make the ratio 1."""
    bits, compute, sending = 8 * wire(row["bytes"], ranks), row["compute_seconds"], row["communication_seconds"]
    return row | {"ratio": sending / compute, "rate": bits / sending,
                  "balance_batch": batch * sending / compute, "balance_rate": bits / compute}


def sums(rows):
    """A row for each kind of layer, and one for all."""
    for kind, (label, _) in KINDS.items():
        chosen = [row for row in rows if kind in (row["kind"], "net")]
        if chosen:
            yield {"layer": label, "kind": kind} | {key: sum(row[key] for row in chosen) for key in ADDED}


def measure(ranks, name, options, say, count):
    """All figures of a net; METRICS.md has the formulas."""
    ranks.where = name
    step = ranks.agree(lambda: _step(name, options.batch))
    warm(ranks, step.net, say)
    compute = computation(ranks, Timed(step), options.rounds, count)
    layers = step.net.backward_layers
    if options.rate:
        sending = {layer.name: 8 * wire(layer.g.nbytes, options.ranks) / options.rate for layer in layers}
    else:
        sending = communication(ranks, layers, options.rounds, count)
    rows = [{"layer": layer.name, "kind": layer.kind, "parameters": int(layer.size),
             "bytes": layer.g.nbytes, "flops": layer_flops(layer), "compute_seconds": compute[layer.name],
             "communication_seconds": sending[layer.name]} for layer in step.net.layers]
    layers, added = ([balanced(row, options.batch, options.ranks) for row in some] for some in (rows, sums(rows)))
    return {"net": name, "batch": options.batch, "ranks": options.ranks, "threads": options.threads,
            "communication": "modelled" if options.rate else "measured", "layers": layers, "sums": added}


def _step(name, batch):
    try:
        return Step(nets.build(name), batch)
    except MemoryError as error:
        raise UserError(f"not enough memory for --batch {batch} of {name}: {error} | try: a smaller one") from None


def title(found):
    """What was measured, in a line."""
    return (f"{found['net']}, batch {found['batch']} a rank, {found['ranks']} ranks, communication"
            f" {found['communication']}: {shared.show_rate(found['sums'][-1]['rate'])}")


def line(row):
    """A row of the table."""
    return LINE.format(
        row["layer"], f"{row['parameters']:,}", f"{row['bytes'] / 1e6:.3f}", f"{row['flops'] / 1e9:.3f}",
        f"{1e3 * row['compute_seconds']:.3f}", f"{1e3 * row['communication_seconds']:.3f}", f"{row['ratio']:.3f}",
        f"{row['rate'] / 1e9:.3f}", f"{row['balance_batch']:.2f}", f"{row['balance_rate'] / 1e9:.3f}")


def show(found, options, say):
    """The table of a net."""
    say(f"{title(found)}; {shared.threads(options)}")
    say(HEAD, style="bold")
    for row in found["layers"]:
        say(line(row))
    for row in found["sums"]:
        say(line(row), style="bold")


def _panel(axes, found, layers):
    """A net: so many layers from the top, a gap, the sums. Bars begin at 1, where both take the same time."""
    rows, many = [*layers, *found["sums"]], len(layers)
    places = [place + (place >= many) * GAP for place in range(len(rows))]
    axes.set_xscale("log")
    bars = axes.barh(places, [row["ratio"] - 1 for row in rows], left=1, height=0.7,
                     color=[KINDS[row["kind"]][1] for row in rows])
    axes.bar_label(bars, [f"{row['ratio']:.2g}" for row in rows], fontsize=6, padding=2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(places, [row["layer"] for row in rows], fontsize=7)
    axes.set_ylim(places[-1] + 0.5, -0.5)
    axes.margins(x=0.1)
    axes.set_title(title(found), loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=7, labelbottom=True)
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)


def draw(nets_found, path):
    """A panel for each net, one above the other: its layers and their sums, or of several nets the sums only."""
    layers = [found["layers"] if len(nets_found) == 1 else [] for found in nets_found]
    rows = [len(some) + len(found["sums"]) for some, found in zip(layers, nets_found, strict=True)]
    figure = plots.figure(figsize=(7, 1 + 0.16 * sum(rows) + 0.5 * len(rows)))
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels = figure.subplots(len(rows), sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for axes, found, some in zip(panels, nets_found, layers, strict=True):
        _panel(axes, found, some)
    panels[-1].set_xlabel("seconds of communication / seconds of computation, of a training step", fontsize=8)
    figure.legend(handles=[*(Patch(color=colour, label=label) for label, colour in KINDS.values()),
                           Line2D([], [], color="black", linewidth=1, label="1.0: both take the same time")],
                  loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    plots.save(figure, path)


def parser():
    """All options."""
    p = shared.Parser(prog="python -m bench ratio", description=__doc__)
    p.add_argument("--net", action="append", choices=[*nets.NETS, "all"],
                   help="net to measure; may be given several times (default: alexnet)")
    p.add_argument("--batch", type=shared.count, default=16, help="samples on each rank (default: 16)")
    p.add_argument("--rate", type=shared.rate, help="on one rank: compute communication from this rate, as in 1gbit")
    p.add_argument("--ranks", type=shared.count, help="with --rate: number of ranks (default: 2)")
    shared.add(p, {}, rounds=5)
    plots.add_option(p, "the ratios")
    return p


def complete(options, rank, size):
    """Check the options on a rank of `size`, and fill in what follows from others. Raises UserError."""
    kernel_settings()
    shared.begin(options, rank)
    if size > 1 and (options.rate or options.ranks):
        raise UserError(f"--rate and --ranks are for a model on one rank; {size} ranks measure | try: without")
    if size == 1 and options.rate is None:
        raise UserError(ALONE)
    if options.rate == math.inf:
        raise UserError("--rate none: communication would take no time | expected a rate such as 1gbit")
    if options.ranks == 1:
        raise UserError("--ranks 1: one rank sends nothing | expected 2 or more")
    options.ranks = options.ranks or max(2, size)
    chosen = options.net or ["alexnet"]
    options.net = list(nets.NETS if "all" in chosen else dict.fromkeys(chosen))


def main(argv):
    """Measure, print, and save."""
    with shared.job(parser(), argv) as (ranks, options):
        ranks.agree(lambda: complete(options, ranks.rank, ranks.size))
        nets_found, passes = [], 1 if options.rate else 2
        with counting(ranks, passes * options.rounds * len(options.net)) as (say, count):
            for name in options.net:
                nets_found.append(measure(ranks, name, options, say, count))
                show(nets_found[-1], options, say)
        ranks.agree(lambda: shared.save(options, nets_found, draw))
