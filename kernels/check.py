"""`python -m kernels.check [ROOM]`: every pass of every case against NumPy in float64; exit status 1 if one is off."""

import argparse
import importlib
import math
import os
import sys

import numpy as np

from kernels import vectors
from kernels.conv2d import winograd

BOUND, TRANSFORMED = 2e-6, 2e-5  # the error allowed, and where transforms are (KERNELS_WINOGRAD=0 switches them off)
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
    off = np.abs(got - want.astype(np.float64)).max()
    with np.errstate(divide="ignore"):
        relative = off / np.abs(want).max() if off else 0.0
    return math.inf if math.isnan(relative) else float(relative)


def results(room):
    """Yield (case, pass, error) for all cases of a room."""
    passes = importlib.import_module(f"kernels.{room}.check").passes_of
    for case in importlib.import_module(f"kernels.{room}.cases").CASES:
        name = f"{case.net} {case.name}" if hasattr(case, "net") else case.name
        for part, got, want in passes(case, normals()):
            yield name, part, error(got, want)


def run(rooms):
    """Print a line for each pass, then how many hold and the worst; return the exit status."""
    lines, bounds = [], {room: ROOMS[room] for room in rooms}
    print(LINE.format(**HEAD).rstrip())
    for room, bound in bounds.items():
        for case, part, found in results(room):
            text = {"error": f"{found:.1e}", "bound": f"{bound:.1e}", "verdict": "ok" if found <= bound else "FAILED"}
            lines.append((found / bound, LINE.format(room=room, case=case, part=part, **text)))
            print(lines[-1][1], flush=True)
    failed, worst = sum(line.endswith("FAILED") for _, line in lines), max(lines)[1]
    print(f"{vectors.isa()}: {len(lines) - failed} of {len(lines)} ok, worst: {' '.join(worst.split())}")
    return 1 if failed else 0


def parser():
    """All options."""
    p = argparse.ArgumentParser(prog="python -m kernels.check", description=__doc__)
    p.add_argument("room", nargs="?", choices=ROOMS, help="only this room (default: all)")
    p.add_argument("--isa", choices=vectors.ISAS, help="instruction set (default: KERNELS_ISA, or the best there is)")
    p.add_argument("--backend", choices=["numba"], default="numba", help="whose kernels (default: numba)")
    return p


def main(argv):
    """Choose the instruction set before any kernel is compiled, then check."""
    p = parser()
    options = p.parse_args(argv)
    if options.isa:
        os.environ.pop("KERNELS_ISA", None)
        best, order = vectors.isa(), list(vectors.ISAS)
        if order.index(options.isa) < order.index(best):
            p.error(f"--isa {options.isa}: this processor has {best} at most")
        os.environ["KERNELS_ISA"] = options.isa
    return run([options.room] if options.room else ROOMS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
