"""Part `steps`: whole training steps of the nets, next to PyTorch's, whose results they are compared with."""

import math
import statistics
import time
from typing import NamedTuple

import nets
from bench import step
from bench.gpu import device
from bench.rows import compared
from bench.timing import Events
from kernels import gpu

is_broken = device.is_broken
SECONDS = 1.0  # at least, for each row
SHAPES = {"transformer": (1024,)}  # where it is not the net's own
TEXTS = 4  # images for each text
CLOSER = {"loss": 1e-4, "gradient": step.DEEP}  # relative differences in float32 up to which both compute the same


class Unit(NamedTuple):
    """A net in a precision."""

    net: str
    precision: str


def units(options):
    """{name: unit}."""
    return {f"{net} {precision}": Unit(net, precision) for net in options.nets for precision in options.precisions}


def build(net, precision):
    """On the GPU, for the samples measured."""
    return nets.build(net, device="gpu", precision=precision, shape=SHAPES.get(net))


def samples(net, options):
    """How many."""
    return max(1, options.batch // TEXTS) if len(net.shape) == 1 else options.batch


def _peers(mine, precision):
    """{layout: PyTorch's step}."""
    if not device.torch():
        return {}
    from bench import peer_torch

    layouts = list(peer_torch.LAYOUTS)[::-1] if mine.batch.x.ndim == 4 else ["NCHW"]
    return {layout: peer_torch.Step(mine.net, mine.batch, layout, step.SGD, precision) for layout in layouts}


def _differences(mine, theirs):
    """{"loss", "gradient"} of the first peer's, relative to ours; none without one. Nothing is too large here."""
    first = dict(list(theirs.items())[:1])
    return step.compare(mine, first, looser=math.inf) if first else None


def measure(todo, options, found):
    """Yield (name, rows or exception)."""
    device.ceilings(options, found)

    def rows(unit):
        device.use(unit.precision)
        net = build(*unit)
        mine = step.Step(net, samples(net, options))
        theirs = _peers(mine, unit.precision)
        differences = _differences(mine, theirs)
        times = device.timed({"ours": mine, **theirs}, options, seconds=SECONDS, clock=Events())
        return [row(unit, mine, found, differences, *times) | {"launching": launching(mine, options.rounds)}]

    yield from device.each(todo, rows)


def launching(step_of_ours, rounds):
    """Seconds that this computer takes to launch a step, the GPU idle before it: the median."""
    synchronize, times = gpu.cupy().cuda.Device().synchronize, []
    for _ in range(rounds):
        synchronize()
        start = time.perf_counter()
        step_of_ours()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(unit, step_of_ours, found, differences, mine, theirs):
    """What is known of a net; METRICS.md has the formulas."""
    tflops, most = step.flops(step_of_ours.net) / mine / 1e12, found["product_tflops"].get(unit.precision)
    return {"net": unit.net, "precision": unit.precision, "batch": step_of_ours.batch.size,
            **compared(mine, theirs), "samples_per_second": step_of_ours.batch.size / mine, "tflops": tflops,
            "product_share": most and tflops / most, "difference": differences,
            "agrees": None if differences is None or unit.precision != "float32" else all(
                differences[kind] <= CLOSER[kind] for kind in CLOSER)}
