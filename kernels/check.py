"""`python -m kernels.check [ROOM]`: every pass of every case against NumPy in float64; exit status 1 if one is off.

`--backend cuda` checks the GPU's kernels, in `--precision` float32, tf32 (products only) or bfloat16.
"""

import argparse
import importlib
import math
import os
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kernels import gpu, vectors
from kernels.check_target import HOST, CheckTarget, on_gpu
from kernels.conv2d import winograd

BOUND, TRANSFORMED = 2e-6, 2e-5  # the error allowed, and where transforms are (KERNELS_WINOGRAD=0 switches them off)
PRODUCTS = ("conv2d", "dense", "matmul", "attention")
ROOMS = dict.fromkeys(("conv2d", "dense", "matmul", "pool", "norm", "batchnorm", "layernorm", "attention", "embedding",
                       "activation", "loss", "update", "wire", "compress"), BOUND)
if winograd.ENABLED:
    ROOMS["conv2d"] = TRANSFORMED
LINE = "{room:10}  {case:29}  {part:22}  {error:>7}  {bound:>7}  {verdict}"
HEAD = {"room": "room", "case": "case", "part": "pass", "error": "error", "bound": "bound", "verdict": ""}


def normals(seed=0):
    """A source of float32 arrays of normal numbers: a function of their shape."""
    rng = np.random.default_rng(seed)
    return lambda shape: np.asarray(rng.standard_normal(shape, np.float32))


def error(got, want):
    """max |got - want| / max |want|; infinite where one has a NaN."""
    off = np.abs(gpu.fetch(got) - want.astype(np.float64)).max()
    with np.errstate(divide="ignore"):
        relative = off / np.abs(want).max() if off else 0.0
    return math.inf if math.isnan(relative) else float(relative)


class Backend(NamedTuple):
    """Where kernels run, what they are called in the last line, and bound(room, result)."""

    target: CheckTarget
    name: str
    bound: Callable


def numba():
    """This processor."""
    return Backend(HOST, vectors.isa(), lambda room, got: ROOMS[room])


def cuda(precision):
    """The GPU: activations of float32 or bfloat16, products of float32 perhaps of tf32.

    In float32 one accumulator adds up to 9216 products, where the CPU begins anew after 1024. Operands of tf32 are off
    by 2^-11 at most, results of bfloat16 by 2^-8 of themselves; attention rounds what its second product is of, too.
    """
    gpu.set_precision("tf32" if precision == "tf32" else "float32")
    coarse = {"float32": 5e-6, "tf32": 1e-3, "bfloat16": 5e-6}[precision]

    def bound(room, got):
        if got.dtype.name == "bfloat16":
            return 4e-3 * (2 if room == "attention" else 1)
        return coarse if room in PRODUCTS else BOUND

    return Backend(on_gpu(gpu.bfloat16() if precision == "bfloat16" else np.float32), f"cuda {precision}", bound)


def results(room, backend=None, cases=None):
    """Yield (case, pass, error, bound) for all cases of a room, or those given."""
    backend = backend or numba()
    target = backend.target
    passes = importlib.import_module(f"kernels.{room}.check").passes_of
    for case in cases or importlib.import_module(f"kernels.{room}.cases").CASES:
        name, draw = f"{case.net} {case.name}" if hasattr(case, "net") else case.name, normals()
        for part, got, want in passes(case, lambda shape: target.rounded(draw(shape)), target):  # noqa: B023
            yield name, part, error(got, want), backend.bound(room, got)


def run(rooms, backend=None):
    """Print a line for each pass, then how many hold and the worst; return the exit status."""
    lines, backend = [], backend or numba()
    print(LINE.format(**HEAD).rstrip())
    for room in rooms:
        for case, part, found, bound in results(room, backend):
            text = {"error": f"{found:.1e}", "bound": f"{bound:.1e}", "verdict": "ok" if found <= bound else "FAILED"}
            lines.append((found / bound, LINE.format(room=room, case=case, part=part, **text)))
            print(lines[-1][1], flush=True)
    failed, worst = sum(line.endswith("FAILED") for _, line in lines), max(lines)[1]
    print(f"{backend.name}: {len(lines) - failed} of {len(lines)} ok, worst: {' '.join(worst.split())}")
    return 1 if failed else 0


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m kernels.check", description=__doc__)
    p.add_argument("room", nargs="?", choices=ROOMS, help="only this room (default: all)")
    p.add_argument("--isa", choices=vectors.ISAS, help="instruction set (default: KERNELS_ISA, or the best there is)")
    p.add_argument("--backend", choices=["numba", "cuda"], default="numba", help="whose kernels (default: numba)")
    p.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32",
                   help="of cuda's: of products of float32, or of activations (default: float32)")
    return p


def main(argv):
    """Choose the instruction set before any kernel is compiled, then check."""
    p = parser()
    options = p.parse_args(argv)
    rooms = [options.room] if options.room else ROOMS
    if options.backend == "cuda":
        if reason := gpu.missing():
            p.error(f"--backend cuda: {reason}")
        return run(rooms, cuda(options.precision))
    if options.precision != "float32":
        p.error(f"--precision {options.precision} goes with --backend cuda")
    if options.isa:
        os.environ.pop("KERNELS_ISA", None)
        best, order = vectors.isa(), list(vectors.ISAS)
        if order.index(options.isa) < order.index(best):
            p.error(f"--isa {options.isa}: this processor has {best} at most")
        os.environ["KERNELS_ISA"] = options.isa
    return run(rooms)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
