"""PyTorch's DistributedDataParallel over gloo, a rank of it: `python -m bench.peer_ddp`, started by bench schedules.

Rank and size come from MPICH's launcher; nothing of MPI is used.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

import nets
from bench import options as shared
from bench import peer_torch
from bench.compare import RATE, sent
from bench.step import SGD, Step
from mpilayer.base.files import replacing

PORT = "29611"
CONSTANTS = SGD | {"lr": RATE}


class Model(torch.nn.Module):
    """A net of ours as a module whose output is its loss, on a batch of its own."""

    def __init__(self, step, layout):
        super().__init__()
        self.torch = peer_torch.Step(step.net, step.batch, layout, CONSTANTS)
        self.torch.weights = {name: [torch.nn.Parameter(tensor.detach()) for tensor in layer]
                              for name, layer in self.torch.weights.items()}
        self.parts = torch.nn.ParameterList([tensor for layer in self.torch.weights.values() for tensor in layer])

    def forward(self):
        """The loss."""
        self.torch.loss = 0.0
        self.torch.run(self.torch.body, self.torch.x)
        return self.torch.loss


def seconds(model, optimizer, steps):
    """Of each step after the first."""
    found = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
        found.append(time.perf_counter() - start)
    return found[1:]


def slowest(readings):
    """The median, of the rank where it is largest."""
    mine = torch.tensor([statistics.median(readings)], dtype=torch.float64)
    distributed.all_reduce(mine, distributed.ReduceOp.MAX)
    return mine.item()


def optimizer_of(model):
    """Momentum SGD as ours."""
    return torch.optim.SGD(model.parameters(), **CONSTANTS, fused=True)


def better(step):
    """The layout in which this net computes faster, by rank 0's clock."""
    times = {}
    for layout in peer_torch.LAYOUTS:
        model = Model(step, layout)
        times[layout] = statistics.median(seconds(model, optimizer_of(model), 2))
    chosen = [min(times, key=times.get)]
    distributed.broadcast_object_list(chosen)
    return chosen[0]


def measure(options):
    """A row as those of bench schedules."""
    step = Step(nets.build(options.net), options.batch)
    layout = better(step)
    module = Model(step, layout)
    alone = slowest(seconds(module, optimizer_of(module), options.steps))
    model = DistributedDataParallel(module, gradient_as_bucket_view=True)
    name = f"PyTorch DDP {layout}"
    if options.wire == "bfloat16":
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)  # the one of half size that gloo may use
        name += " float16"
    optimizer = optimizer_of(model)
    seconds(model, optimizer, 1)  # after its first step it lays out its buckets anew
    left = sent()
    iteration = slowest(seconds(model, optimizer, options.steps))
    return {"schedule": name, "iteration_seconds": iteration, "compute_seconds": alone,
            "images_per_second": options.batch * distributed.get_world_size() / iteration,
            "efficiency": alone / iteration, "bytes_on_wire": (sent() - left) / (options.steps + 1)}


def main():
    """Measure; rank 0 writes."""
    p = argparse.ArgumentParser(prog="python -m bench.peer_ddp", description=__doc__)
    p.add_argument("--net", choices=nets.NETS, required=True)
    p.add_argument("--batch", type=shared.count, required=True)
    p.add_argument("--steps", type=shared.count, required=True)
    p.add_argument("--wire", choices=("float32", "bfloat16"), default="float32")
    p.add_argument("--address", required=True, help="of the host of rank 0")
    p.add_argument("--json", type=Path, required=True)
    options = p.parse_args()
    rank, size = int(os.environ["PMI_RANK"]), int(os.environ["PMI_SIZE"])
    os.environ |= {"MASTER_ADDR": options.address, "MASTER_PORT": PORT, "GLOO_SOCKET_IFNAME": "eth0"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=size)
    row = measure(options)
    if rank == 0:
        with replacing(options.json) as file:
            json.dump(row, file)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
