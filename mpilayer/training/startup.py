"""Before the first step: kernels are compiled, once on each machine, and what messages cost is measured."""

import threading
from types import SimpleNamespace

import numpy as np

from kernels import gpu
from mpilayer.exchange import automatic, probe
from mpilayer.exchange.channel import silent
from mpilayer.gpu import device
from mpilayer.training.batch import Batch
from mpilayer.training.compiling import Together

TOLD = 3  # seconds after which compiling for a GPU is worth a word


def first_step(net, size):
    """Forward and backward on so many random samples; the state stays as it is."""
    state = net.state.copy()
    for _ in (*net.forward(Batch(*net.example(size, np.random.default_rng(0)), size)), *net.backward()):
        pass
    net.state[:] = state


def update_once(make, weights, wire):
    """Updates of one weight each, which lie where `weights` do, by the optimizer that make(parameters) makes."""
    dtypes = np.float32, np.uint16 if wire == "bfloat16" else np.float32  # as settle(as_sent=True) gives sums
    layers = [SimpleNamespace(name=name, shapes={"weight": (1, 1)}, w=np.zeros_like(weights, shape=1, dtype=dtypes[0]),
                              g=np.zeros_like(weights, shape=1, dtype=dtypes[1])) for name in ("one", "the last")]
    optimizer = make(SimpleNamespace(layers=layers))
    optimizer.attach(optimizer.trace, lambda step: 1.0)
    for layer in layers:
        optimizer.update(layer, layer.g, step=0)


def warm_gpu(ranks, net, say, size, also):
    """As `warm`, by a step on as many samples as a rank will have; then the other ranks load what they find on disk."""
    def compiled():
        telling = threading.Timer(TOLD, say, ["compiling the kernels for this GPU, once on this machine"])
        telling.start()
        try:
            loaded()
        finally:
            telling.cancel()

    def loaded():
        with device.room(f"a batch of {size} on each rank"):
            first_step(net, size)
            for work in also:
                work()

    ranks.agree(compiled if ranks.node.rank == 0 else lambda: None)
    ranks.agree(loaded if ranks.node.rank > 0 else lambda: None)


def warm(ranks, net, say, also=()):
    """Compile the kernels of the net's blocks and of the functions `also`: as many ranks of a node as it has cores
    share that out, and each then has all of them.
    """
    compilers = max(1, min(ranks.node.size, ranks.cores * ranks.node.size // ranks.neighbours))
    works = [*net.trials(Batch(*net.example(1, np.random.default_rng(0)), 1)), *also]
    first = len(works) * ranks.node.rank // compilers  # each begins somewhere else
    others = ranks.node.size - compilers

    def announce():
        waiting = {0: "", 1: "; 1 rank waits"}.get(others, f"; {others} ranks wait")
        say(f"compiling the kernels, once on this machine (10 to 30 seconds){waiting}")

    with Together(ranks, announce) as together:
        if ranks.node.rank < compilers:
            together.call(works[first:] + works[:first])
        ranks.meet_after(ranks.node)


def prepare(ranks, settings, net, batch, say, also=()):
    """Compile what training and the functions `also` need; the Settings, measured where they say "auto"."""
    also = (lambda: probe.warm(settings, net.weights), *also)
    if gpu.is_array(net.weights):
        from mpilayer.gpu.cuda_aware import cuda_aware

        warm_gpu(ranks, net, say, max(1, batch // ranks.size), also)
        if ranks.size > 1:
            progress = "poll" if settings.progress == "auto" else settings.progress  # this core is free to do that
            settings = settings._replace(cuda_aware=cuda_aware(ranks), progress=progress)
    else:
        warm(ranks, net, say, also)
    return automatic.choose(ranks, settings, net.weights, say if ranks.rank == 0 else silent)
