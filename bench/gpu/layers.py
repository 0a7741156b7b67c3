"""Part `layers`: convolutions, dense layers and attention by passes, next to PyTorch and to what products can do."""

import random
from typing import NamedTuple

from bench.gpu import device
from bench.layers import CASES, flops, ours, torch_functions
from bench.memory import random as normals
from bench.rows import compared
from kernels.attention.cases import Case as Attention
from kernels.dense.cases import Case as Dense

is_broken = device.is_broken
SECONDS = 0.03  # at least, for each row
TOKENS = 1024  # of a text
ATTENTION = [("attention", 8, 32), ("attention wide heads", 8, 64), ("attention widest heads", 8, 128)]
GROUPS = {Attention: "attention", Dense: "dense"}


class Unit(NamedTuple):
    """A layer on a batch of `size` samples in a precision."""

    case: tuple
    size: int
    precision: str


def _layers(options):
    """(case, size) of all nets; ATTENTION has names, heads and channels of each."""
    texts = max(1, options.batch // 4)
    yield from ((case, options.batch) for case in CASES if not isinstance(case, Attention))
    yield from ((Attention("transformer", name, texts, TOKENS, heads, D), texts) for name, heads, D in ATTENTION)


def units(options):
    """{name: unit}, in a random order, always the same: what is measured when time is over is a fair sample."""
    layers = [found for found in _layers(options) if found[0].net in options.nets and options.layer in found[0].name]
    random.Random(0).shuffle(layers)
    found = [Unit(*layer, precision) for layer in layers for precision in options.precisions]
    return {f"{unit.case.net} {unit.case.name} {unit.precision}": unit for unit in found}


def _functions(unit, place):
    """({pass: our function}, {pass: {layout: function of the peer}}), of the same numbers."""
    arrays = [normals(sizes, place) for sizes in unit.case.shapes(unit.size)]
    arrays[::2] = map(place.x, arrays[::2])  # the others are weights
    mine = ours(unit.case, *arrays)
    return mine, device.peers(lambda: torch_functions(unit.case, *map(place.x, arrays)), mine)


def measure(todo, options, found):
    """Yield (name, rows or exception)."""
    device.ceilings(options, found)

    def rows(unit):
        mine, theirs = _functions(unit, device.use(unit.precision))
        return [row(unit, which, found, *device.timed({"ours": function, **theirs[which]}, options, seconds=SECONDS))
                for which, function in mine.items()]

    yield from device.each(todo, rows)


def row(unit, which, found, mine, theirs):
    """What is known of one pass; METRICS.md has the formulas."""
    case, most = unit.case, found["product_tflops"].get(unit.precision)
    tflops = flops(case, which, unit.size) / mine / 1e12
    return {"net": case.net, "layer": case.name, "kind": GROUPS.get(type(case), "conv"), "pass": which,
            "precision": unit.precision, "size": unit.size, **compared(mine, theirs), "tflops": tflops,
            "product_share": most and tflops / most}
