"""`python -m bench COMMAND ...`: measure one thing; without a command, list them."""

import importlib
import os
import sys

from mpilayer.base.errors import UserError

COMMANDS = {
    "kernels": ("bench.kernels", "convolution and dense layers against the peak of the core, and a peer"),
    "step": ("bench.step", "a whole training step of a net, its parts, and a peer"),
    "hook": ("bench.hook", "what it costs that kernels call a function now and then, and how regularly they do"),
    "memory": ("bench.memory", "the other kernels against the bandwidth of memory, and a peer"),
    "ratio": ("bench.ratio", "communication against computation, layer by layer, and what would balance them"),
    "allreduce": ("bench.allreduce", "sums over the ranks by size: latency and bandwidth of every way"),
    "overlap": ("bench.overlap", "how much of a sum hides behind a kernel, for every way of progress"),
    "schedules": ("bench.schedules", "schedules in turn: what of their communication is exposed, and the bound"),
    "convergence": ("bench.convergence", "schedules to the end of training: accuracy against steps and time"),
    "cluster": ("bench.cluster", "run a command on emulated hosts with slow links (root)"),
    "gpu": ("bench.gpu", "everything above on a machine with a GPU: compiled, checked, timed, in a table"),
    "timeline": ("bench.timeline", "draw a training step of runs made with mpilayer.train --out"),
}


def overview():
    """What can be measured, a line each."""
    lines = [f"  {name:12} {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: python -m bench COMMAND ...   (COMMAND --help for its options)", "", *lines])


def main(argv):
    """Run a command; return the exit status."""
    name, *rest = argv or ["--help"]
    if name in ("--help", "-h"):
        print(overview())
        return 0
    try:
        if name not in COMMANDS:
            raise UserError(f"no command {name!r} | expected one of {', '.join(COMMANDS)}")
        return importlib.import_module(COMMANDS[name][0]).main(rest) or 0
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    for library in ("OMP", "OPENBLAS", "MKL"):  # every figure is of one thread; read when NumPy is loaded
        os.environ[f"{library}_NUM_THREADS"] = "1"
    sys.exit(main(sys.argv[1:]))
