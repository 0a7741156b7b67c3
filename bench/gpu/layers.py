"""Part `layers`: convolutions, dense layers and attention by passes, next to PyTorch and to what products can do."""

import contextlib
import random
from typing import NamedTuple

import kernels
from bench.gpu import device
from bench.kernels import CASES, blank, ours, torch_functions
from bench.memory import random as normals
from bench.rows import compared
from kernels.attention.cases import Case as Attention
from kernels.dense.cases import Case as Dense

is_broken = device.is_broken
SECONDS = 0.03  # at least, for each row
TOKENS = 1024  # of a text
DENSE = [Dense("transformer", "qkv", 256, 768), Dense("transformer", "joined", 256, 256),
         Dense("transformer", "fc1", 256, 1024), Dense("transformer", "fc2", 1024, 256)]
ATTENTION = [("transformer", 8, 32), ("wide heads", 8, 64), ("widest heads", 8, 128)]  # name, heads, channels of each


class Unit(NamedTuple):
    """A layer in a precision; `size` images or tokens, or of attention `case` has all."""

    net: str
    layer: str
    case: tuple
    size: int
    precision: str

    @property
    def kind(self):
        """Of layer."""
        if isinstance(self.case, Attention):
            return "attention"
        return "conv" if hasattr(self.case, "window") else "dense"


def _layers(options):
    """(net, layer, case, size) of all nets."""
    texts = max(1, options.batch // 4)
    yield from ((case.net, case.name, case, options.batch) for case in CASES)
    yield from ((case.net, case.name, case, texts * TOKENS) for case in DENSE)
    yield from (("transformer", f"attention {name}", Attention(name, texts, TOKENS, heads, D), 0)
                for name, heads, D in ATTENTION)


def units(options):
    """{name: unit}, in a random order, always the same: what is measured when time is over is a fair sample."""
    layers = [found for found in _layers(options) if found[0] in options.nets and options.layer in found[1]]
    random.Random(0).shuffle(layers)
    found = [Unit(*layer, precision) for layer in layers for precision in options.precisions]
    return {f"{unit.net} {unit.layer} {unit.precision}": unit for unit in found}


def _attention(case, qkv):
    """{pass: our function}."""
    y, lse = out = kernels.attention(qkv, case.heads)
    dy, dqkv = y.copy(), blank(qkv)
    return {"forward": lambda: kernels.attention(qkv, case.heads, out=out),
            "backward": lambda: kernels.attention_backward(dy, qkv, y, lse, out=dqkv)}


def _torch_attention(case, qkv):
    """{pass: {way: function}}: PyTorch's own choice, and cuDNN's attention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    parts = [part.view(case.N, case.T, case.heads, case.D).transpose(1, 2).requires_grad_()
             for part in torch.from_dlpack(qkv).split(case.heads * case.D, 2)]

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)

    def backward():
        with torch.enable_grad():
            y = attend()
        return lambda: torch.autograd.grad(y, parts, y.detach(), retain_graph=True)

    ways = {"default": contextlib.nullcontext, "cudnn": lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION)}
    found = {"forward": {}, "backward": {}}
    for name, way in ways.items():
        found["forward"][name] = _inside(way, attend)
        with contextlib.suppress(RuntimeError), way():  # where there is no such kernel
            found["backward"][name] = _inside(way, backward())
    return found


def _inside(way, function):
    def call():
        with way():
            return function()

    return call


def _functions(unit, place):
    """({pass: our function}, {pass: {layout: function of the peer}}), of the same numbers."""
    if unit.kind == "attention":
        qkv = place.x(normals(unit.case.shape, place))
        mine = _attention(unit.case, qkv)
        return mine, device.peers(lambda: _torch_attention(unit.case, qkv), mine)
    x, w, dy = (normals(sizes, place) for sizes in unit.case.shapes(unit.size))
    x, dy = map(place.x, (x, dy))
    mine = ours(unit.case, x, w, dy)
    if unit.case.channels == 3:
        del mine["dgrad"]  # no layer needs the gradient by the image
    return mine, device.peers(lambda: torch_functions(unit.case, x, place.x(w), dy), mine)


def _flops(unit, which):
    if unit.kind == "attention":
        return unit.case.flops * (5 / 2 if which == "backward" else 1)
    return unit.case.flops(unit.size)


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
    tflops, most = _flops(unit, which) / mine / 1e12, found["product_tflops"].get(unit.precision)
    return {"net": unit.net, "layer": unit.layer, "kind": unit.kind, "pass": which, "precision": unit.precision,
            "size": unit.size or unit.case.N * unit.case.T, **compared(mine, theirs), "tflops": tflops,
            "product_share": most and tflops / most}
