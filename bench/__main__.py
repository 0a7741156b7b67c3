"""`python -m bench COMMAND ...`: measure one thing; without a command, list them."""

import importlib
import os
import sys

from mpilayer.base.errors import UserError

COMMANDS = {
    "kernels": ("bench.kernels", "speed of convolution, dense layers and attention, next to the peak of the core"),
    "step": ("bench.step", "time of a training step of a net and of its parts, next to a peer"),
    "hook": ("bench.hook", "cost and regularity of the calls that kernels make to let messages advance"),
    "transforms": ("bench.transforms", "accuracy of convolution by transforms, if its products were of bfloat16"),
    "memory": ("bench.memory", "speed of the other kernels, next to the bandwidth of memory and a peer"),
    "ratio": ("bench.ratio", "time of communication / time of computation, layer by layer"),
    "allreduce": ("bench.allreduce", "all-reduce by message size: latency and bandwidth of each way of making it"),
    "overlap": ("bench.overlap", "how much of an all-reduce is hidden behind a kernel, for each way of progress"),
    "schedules": ("bench.schedules", "compare schedules: time of a step, exposed communication, the least possible"),
    "convergence": ("bench.convergence", "train with several schedules and seeds: accuracy against steps and time"),
    "atlas": ("bench.atlas", "many runs told by a file: what each axis does to the score, with intervals over seeds"),
    "replicas": ("bench.replicas", "cost of comparing the weights of all ranks, next to a training step"),
    "checkpoints": ("bench.checkpoints", "cost of writing a checkpoint beside training steps"),
    "chaos": ("bench.chaos", "disturb runs at random moments: do they go on, and to the same bits?"),
    "torch": ("bench.pytorch", "a PyTorch model: mpilayer.torch next to DistributedDataParallel (needs root)"),
    "growth": ("bench.growth", "what the library asks of MPI beside gradients, as ranks become many"),
    "predict": ("bench.predict", "predict the time of a step by each schedule, and compare with what is measured"),
    "replay": ("bench.replay", "predictions next to those of another simulator, SimGrid's SMPI"),
    "advise": ("bench.advise", "which schedule for a cluster: predicted times, efficiency and a recommendation"),
    "cluster": ("bench.cluster", "run a command on emulated hosts with slow links (needs root)"),
    "gpu": ("bench.gpu", "compile, check and time everything on a GPU, and print a table"),
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
