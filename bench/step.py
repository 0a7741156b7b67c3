"""A whole training step of a net on one rank: its speed, where its time goes, and a peer's."""

import argparse
import contextlib
import time

import numpy as np
from rich.table import Table

import kernels
import nets
from bench import options as shared
from bench.kernels import open_torch
from bench.rows import console
from bench.timing import alternate, peak
from kernels.gpu import fetch
from mpilayer.base.errors import UserError
from mpilayer.training.batch import Batch
from nets.blocks import Attention, Dropout
from nets.net import walk

PHASES = ("forward", "backward", "update")
SGD = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}  # a rate so low that steps hardly move the weights
LOUD = 64  # times normal numbers: as large as bytes less their mean, else nobody sees whether AlexNet normalizes
AGREE = {  # relative differences up to which two nets are the same
    "loss": 1e-5,
    "gradient": 0.03,  # a ReLU or maximum that rounds to the other side moves the gradients of all layers before it
}
SHORT = 1000  # times as large are the differences of nets in bfloat16
DEEP = 0.08  # instead, where batch normalization makes more of it: PyTorch's two layouts of ResNet-50 differ by 0.047


class Step:
    """A net, a random batch of `size`, images times `scale`, and the state of momentum SGD."""

    def __init__(self, net, size, scale=1):
        x, y = net.example(size, np.random.default_rng(0))
        net.round_weights()
        x = x * np.float32(scale) if x.ndim == 4 else x
        self.net, self.batch = net, Batch(x, y, size)
        self.velocity = {layer.name: np.zeros_like(layer.w) for layer in net.layers}

    def forward(self):
        """Logits and loss."""
        for _ in self.net.forward(self.batch):
            pass

    def backward(self):
        """Gradients."""
        for _ in self.net.backward():
            pass

    def update(self):
        """Weights, layer by layer as mpilayer.training.optim does it."""
        for layer in self.net.layers:
            kernels.momentum_update(layer.w, layer.g, self.velocity[layer.name], rounded=layer.rounded, **SGD)

    def __call__(self):
        """One training step."""
        for phase in PHASES:
            getattr(self, phase)()

    def gradients(self):
        """(loss, {name of a layer: flat gradient}), the weights left as they are."""
        self.forward()
        self.backward()
        return float(self.net.loss), {layer.name: fetch(layer.g) for layer in self.net.layers}


def layer_flops(layer):
    """Multiplications and additions of a layer's matrix in the last step: forward, wgrad and, if any, dgrad."""
    if "weight" not in layer.weight:
        return 0
    once = 2 * layer.y.size * layer.weight["weight"].size // layer.channels
    return once * (3 if layer.input_gradient else 2)


def attention_flops(block):
    """Those of scores and of products with values, up to the diagonal, forward and backward."""
    N, T, C = block.y.shape
    return 7 * N * T * (T + 1) * C


def flops(net):
    """Those of all layers, and of attention."""
    attentions = (block for block in walk(net.body) if isinstance(block, Attention))
    return sum(map(layer_flops, net.layers)) + sum(map(attention_flops, attentions))


@contextlib.contextmanager
def watched():
    """Yield {room of kernels: seconds spent there} of what runs inside the block."""
    seconds, originals = {}, {name: getattr(kernels, name) for name in kernels.__all__}

    def timed(function):
        room = function.__module__.split(".")[1]

        def call(*arguments, **options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            seconds[room] = seconds.get(room, 0.0) + time.perf_counter() - start
            return result

        return call

    for name, function in originals.items():
        setattr(kernels, name, timed(function))
    try:
        yield seconds
    finally:
        for name, function in originals.items():
            setattr(kernels, name, function)


def breakdown(step, rounds):
    """{phase: {room of kernels, or rest: seconds}} of the step that took the median time of so many."""
    readings = []
    for _ in range(rounds):
        reading = {}
        for phase in PHASES:
            with watched() as seconds:
                start = time.perf_counter()
                getattr(step, phase)()
                total = time.perf_counter() - start
            reading[phase] = seconds | {"rest": total - sum(seconds.values())}
        readings.append(reading)
    readings.sort(key=lambda reading: sum(sum(seconds.values()) for seconds in reading.values()))
    return readings[rounds // 2]


@contextlib.contextmanager
def without_dropout(net):
    """Keep everything: masks differ between implementations."""
    rates = {block: block.rate for block in walk(net.body) if isinstance(block, Dropout)}
    for block in rates:
        block.rate = 0.0
    try:
        yield
    finally:
        for block, rate in rates.items():
            block.rate = rate


def _off(got, want):
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def _differences(step, others):
    """Yield (key of AGREE, what it is, relative difference from ours)."""
    loss, gradients = step.gradients()
    for name, other in others.items():
        other_loss, other_gradients = other.gradients()
        yield "loss", f"{name}'s loss", _off(other_loss, loss)
        for layer, gradient in gradients.items():
            yield "gradient", f"{name}'s gradient of {layer}", _off(other_gradients[layer], gradient)


def compare(step, others, looser=1):
    """The largest {"loss", "gradient"} of the relative differences from ours, of any layer.

    `others` maps names to steps of the same net. Raises UserError where one is more than AGREE: times of different
    computations are not to be compared. `looser`: so many times as much is allowed.
    """
    limits = AGREE | ({"gradient": DEEP} if step.net.state.size else {})
    largest, limits = dict.fromkeys(AGREE, 0.0), {kind: looser * limit for kind, limit in limits.items()}
    with without_dropout(step.net):
        for kind, what, off in _differences(step, others):
            if not off <= limits[kind]:
                raise UserError(f"{what} differs from ours by {off:.1e} of it | expected {limits[kind]:.0e} at most:"
                                " they are not the same net, and nothing was timed")
            largest[kind] = max(largest[kind], off)
    return largest


def _torch_steps(step):
    from bench import peer_torch

    precision = "bfloat16" if step.net.memory.activations.name == "bfloat16" else "float32"
    return {f"torch {layout}": peer_torch.Step(step.net, step.batch, layout, SGD, precision)
            for layout in peer_torch.LAYOUTS}


PEERS = {"torch": (open_torch, _torch_steps)}


def measure(options):
    """All figures; METRICS.md has the formulas."""
    most = peak(options.precision) * options.threads
    step = Step(nets.build(options.net, precision=options.precision), options.batch)
    others, figures = {}, {"net": options.net, "batch": options.batch, "peak": most}
    if options.peer:
        theirs, loud = PEERS[options.peer][1], Step(step.net, options.batch, LOUD)
        figures["difference"] = compare(loud, theirs(loud), SHORT if options.precision == "bfloat16" else 1)
        others = theirs(step)
    times = alternate({"ours": step, **others}, rounds=options.rounds, seconds=0)
    total = flops(step.net)
    figures["rows"] = [{"who": who, "seconds": seconds, "images_per_second": options.batch / seconds,
                        "gflops": total / seconds / 1e9, "peak_share": total / seconds / 1e9 / most,
                        "ratio": seconds / times["ours"]} for who, seconds in times.items()]
    return figures | {"breakdown": breakdown(step, options.rounds)}


def speeds(figures):
    """The steps as a table."""
    table = Table("", "ms", "images/s", "GFLOP/s", "peak", "ratio")
    for row in figures["rows"]:
        table.add_row(row["who"], f"{1e3 * row['seconds']:.1f}", f"{row['images_per_second']:.1f}",
                      f"{row['gflops']:.1f}", f"{row['peak_share']:.0%}", f"{row['ratio']:.2f}")
    return table


def parts(figures):
    """Where the time of our step goes, in ms, as a table."""
    seconds = figures["breakdown"]
    rooms = list(dict.fromkeys(room for phase in PHASES for room in seconds[phase] if room != "rest"))
    table = Table("ms of ours", *PHASES, "step", "share")
    whole = sum(sum(seconds[phase].values()) for phase in PHASES)
    for room in (*rooms, "rest", "sum"):
        each = [sum(seconds[phase].values()) if room == "sum" else seconds[phase].get(room, 0.0) for phase in PHASES]
        cells = [f"{1e3 * value:.1f}" if value else "" for value in (*each, sum(each))]
        table.add_row(room, *cells, f"{sum(each) / whole:.0%}", end_section=room == "rest")
    return table


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m bench step", description=__doc__)
    p.add_argument("--net", choices=nets.NETS, default="alexnet", help="net to measure (default: alexnet)")
    shared.add(p, PEERS, rounds=5)
    p.add_argument("--batch", type=shared.count, default=16, help="samples (default: 16)")
    shared.add_precision(p)
    return p


def main(argv):
    """Measure, print, and save."""
    options = parser().parse_args(argv)
    shared.begin(options)
    if options.peer:
        PEERS[options.peer][0]()
    figures = measure(options)
    say = console().print
    say(f"{options.net}, {options.precision}, {shared.threads(options)}, batch {options.batch},"
        f" peak {figures['peak']:.1f} GFLOP/s")
    say(speeds(figures))
    if options.peer:
        say("greatest difference: " + ", ".join(f"{kind} {off:.1e}" for kind, off in figures["difference"].items()))
    say(parts(figures))
    shared.save(options, figures)
