"""One way of training a PyTorch model on several ranks, a rank of it: started by bench torch."""

import argparse
import json
import os
import statistics
import sys
import time
import types
from pathlib import Path

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from bench import options as shared
from bench.compare import RATE, sent
from bench.torch_models import MODELS, build
from mpilayer.base.files import replacing
from mpilayer.torch.trial import ORDER, STEPS

PORT = "29612"


class Anything(types.ModuleType):
    """A module that has whatever is looked for: Heat asks for torchvision, and does not use it here."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return object


class Loop:
    """Steps of a model with momentum SGD."""

    def __init__(self, model, optimizer, x, y):
        self.model, self.optimizer, self.x, self.y = model, optimizer, x, y

    def seconds(self, steps):
        """Of each of so many steps."""
        found = []
        for _ in range(steps):
            start = time.perf_counter()
            self.optimizer.zero_grad()
            cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()
            found.append(time.perf_counter() - start)
        return found


def ddp(rank, size, options, model, optimizer):
    """(model, optimizer, largest of all ranks' numbers, end) of DistributedDataParallel on gloo."""
    os.environ |= {"MASTER_ADDR": options.address, "MASTER_PORT": PORT, "GLOO_SOCKET_IFNAME": "eth0"}
    distributed.init_process_group("gloo", rank=rank, world_size=size)

    def largest(number):
        mine = torch.tensor([number], dtype=torch.float64)
        distributed.all_reduce(mine, distributed.ReduceOp.MAX)
        return mine.item()

    model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    return model, optimizer, largest, distributed.destroy_process_group


def heat(rank, size, options, model, optimizer):
    """The same of Heat's DataParallel, whose sums may take until the next forward."""
    stub = Anything("torchvision")
    stub.transforms, stub.datasets = Anything("torchvision.transforms"), Anything("torchvision.datasets")
    sys.modules |= {each.__name__: each for each in (stub, stub.transforms, stub.datasets)}
    import heat

    optimizer = heat.optim.DataParallelOptimizer(optimizer, blocking=False)
    model = heat.nn.DataParallel(model, heat.MPI_WORLD, optimizer, blocking_parameter_updates=False)
    return model, optimizer, lambda number: max(heat.MPI_WORLD.handle.allgather(number)), lambda: None


def ours(rank, size, options, model, optimizer):
    """The same of mpilayer.torch."""
    import mpilayer.torch

    words, *settings = options.engine.split("+")
    schedule, _, delay = words.partition(":")
    ranks = mpilayer.Ranks()
    model, optimizer = mpilayer.torch.distribute(model, optimizer, schedule, overlap="forward", ranks=ranks,
                                                 delay=int(delay) if delay.isdigit() else delay or None,
                                                 **dict(setting.split("=") for setting in settings))
    return model, optimizer, lambda number: max(ranks.gather(number)), model.undistribute


WARM = {ddp: 4, heat: 4, ours: 2 + len(ORDER) * STEPS}  # steps before the clock: buckets are laid out, progress tried


def measure(options, rank, size):
    """(a row, what is to be called when nobody holds the model: PyTorch waits for ever for a group that has gone)."""
    model, x, y = build(options.net, options.batch, rank)
    optimizer = torch.optim.SGD(model.parameters(), RATE, 0.9, fused=True)
    alone = statistics.median(Loop(model, optimizer, x, y).seconds(2 + options.steps // 4)[1:])
    start = {"ddp": ddp, "heat": heat}.get(options.engine, ours)
    model, optimizer, largest, end = start(rank, size, options, model, optimizer)
    loop = Loop(model, optimizer, x, y)
    loop.seconds(WARM[start])
    left, begun = sent(), time.perf_counter()
    loop.seconds(options.steps)
    mean = (time.perf_counter() - begun) / options.steps  # no backlog hides in a mean over many steps
    row = {"engine": options.engine, "iteration_seconds": largest(mean), "compute_seconds": largest(alone),
           "bytes_on_wire": (sent() - left) / options.steps,
           "progress": model.distributed.queue.settings.progress if start is ours and size > 1 else ""}
    return row, end


def main():
    """Measure; rank 0 writes."""
    p = argparse.ArgumentParser(prog="python -m bench.torch_engine", description=__doc__)
    p.add_argument("--net", choices=MODELS, required=True)
    p.add_argument("--batch", type=shared.count, required=True)
    p.add_argument("--steps", type=shared.count, required=True)
    p.add_argument("--engine", required=True)
    p.add_argument("--address", required=True, help="of the host of rank 0")
    p.add_argument("--json", type=Path, required=True)
    options = p.parse_args()
    rank, size = int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"])
    torch.set_num_threads(1)
    row, end = measure(options, rank, size)
    end()
    if rank == 0:
        with replacing(options.json) as file:
            json.dump(row, file)


if __name__ == "__main__":
    main()
