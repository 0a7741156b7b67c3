"""`python -m kernels.check [ROOM ...]`: every pass of every case against NumPy in float64; exit status 1 if one is off.

A ROOM is a name of ours or the path of a folder like them. `--backend cuda` checks the GPU's kernels. `--precision` is
float32, bfloat16 (of activations), or of products on the GPU tf32.
"""

import argparse
import math
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernels import gpu, vectors
from kernels.check_target import HOST, CheckTarget, here, on_gpu
from kernels.rooms import package, part, rooms

LINE = "{room:10}  {case:29}  {part:22}  {error:>7}  {bound:>7}  {verdict}"
HEAD = {"room": "room", "case": "case", "part": "pass", "error": "error", "bound": "bound", "verdict": ""}


def normals(seed=0):
    """A source of float32 arrays of normal numbers: a function of their shape."""
    rng = np.random.default_rng(seed)
    return lambda shape: np.asarray(rng.standard_normal(shape, np.float32))


def error(got, want):
    """max |got - want| / max |want|, a float; infinite where one has a NaN."""
    off = np.abs(gpu.fetch(got) - want.astype(np.float64)).max()
    with np.errstate(divide="ignore"):
        relative = off / np.abs(want).max() if off else 0.0
    return math.inf if math.isnan(relative) else float(relative)


class Backend(NamedTuple):
    """Where kernels run, what they are called in the last line, and their precision as Bound.of takes it."""

    target: CheckTarget
    name: str
    precision: str


def numba(precision="float32"):
    """Numba's kernels, on this processor, in float32 or bfloat16 (activations)."""
    if precision == "float32":
        return Backend(HOST, vectors.isa(), "cpu")
    return Backend(here(gpu.bfloat16()), f"{vectors.isa()} bfloat16", "cpu")


def cuda(precision):
    """The GPU, in float32, tf32 (products of float32 arrays) or bfloat16 (activations)."""
    gpu.set_precision("tf32" if precision == "tf32" else "float32")
    return Backend(on_gpu(gpu.bfloat16() if precision == "bfloat16" else np.float32), f"cuda {precision}", precision)


def results(room, backend=None, cases=None):
    """Yield (case, pass, error, bound) for all cases of a room, or those given."""
    (target, _, precision), check = backend or numba(), part(room, "check")
    for case in cases or part(room, "cases").CASES:
        name, draw = f"{case.net} {case.name}" if hasattr(case, "net") else case.name, normals()
        for each, got, want in check.passes_of(case, lambda shape: target.rounded(draw(shape)), target):  # noqa: B023
            yield name, each, error(got, want), check.BOUND.of(precision, got)


def run(chosen, backend=None):
    """Print a line for each pass, then how many hold and the worst; return the exit status."""
    lines, backend = [], backend or numba()
    print(LINE.format(**HEAD).rstrip())
    for room in chosen:
        for case, each, found, bound in results(room, backend):
            text = {"error": f"{found:.1e}", "bound": f"{bound:.1e}", "verdict": "ok" if found <= bound else "FAILED"}
            lines.append((found / bound, LINE.format(room=Path(room).name, case=case, part=each, **text)))
            print(lines[-1][1], flush=True)
    failed, worst = sum(line.endswith("FAILED") for _, line in lines), max(lines)[1]
    print(f"{backend.name}: {len(lines) - failed} of {len(lines)} ok, worst: {' '.join(worst.split())}")
    return 1 if failed else 0


def _room(text):
    """An argparse type: a name of ours, or a path."""
    try:
        package(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return text


def parser():
    """The command line's options."""
    p = argparse.ArgumentParser(prog="python -m kernels.check", description=__doc__)
    p.add_argument("rooms", nargs="*", type=_room, metavar="ROOM",
                   help=f"{', '.join(rooms())}, or the path of a folder like them (default: all of ours)")
    p.add_argument("--isa", choices=vectors.ISAS, help="instruction set (default: KERNELS_ISA, or the best there is)")
    p.add_argument("--backend", choices=["numba", "cuda"], default="numba", help="whose kernels (default: numba)")
    p.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32",
                   help="tf32 of cuda's products, bfloat16 of activations (default: float32)")
    return p


def main(argv):
    """Choose the instruction set before any kernel is compiled, then check."""
    p = parser()
    options = p.parse_args(argv)
    chosen = options.rooms or rooms()
    if options.backend == "cuda":
        if reason := gpu.missing():
            p.error(f"--backend cuda: {reason}")
        return run(chosen, cuda(options.precision))
    if options.precision == "bfloat16" and find_spec("ml_dtypes") is None:
        p.error("--precision bfloat16 needs ml_dtypes | try: pip install ml_dtypes")
    if options.precision == "tf32":
        p.error("--precision tf32 goes with --backend cuda")
    if options.isa:
        best, order = vectors.best(), list(vectors.ISAS)
        if order.index(options.isa) < order.index(best):
            p.error(f"--isa {options.isa}: this processor has {best} at most")
        os.environ["KERNELS_ISA"] = options.isa
    return run(chosen, numba(options.precision))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
