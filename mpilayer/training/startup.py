"""Before the first step: kernels are compiled, once on each machine, and what messages cost is measured."""

import threading

import numpy as np
from numba.core import event

import kernels
from kernels import gpu
from mpilayer.exchange import probe
from mpilayer.exchange.channel import silent
from mpilayer.gpu import device
from mpilayer.training.batch import Batch

TOLD = 3  # seconds after which compiling for a GPU is worth a word


def first_step(net, size):
    """Forward, backward and updates on so many random samples; weights and state stay as they are."""
    state = net.state.copy()
    for _ in (*net.forward(Batch(*net.example(size, np.random.default_rng(0)), size)), *net.backward()):
        pass
    net.state[:] = state
    w, *rest = np.zeros_like(net.weights, shape=(4, 1))
    kernels.momentum_update(w, *rest[:2], lr=0)
    kernels.adamw_update(w, *rest, lr=0, step=1)


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
            also()

    ranks.agree(compiled if ranks.node.rank == 0 else lambda: None)
    ranks.agree(loaded if ranks.node.rank > 0 else lambda: None)


def warm(ranks, net, say, also=lambda: None):
    """Compile the kernels by one step on one sample, then also(): one rank a node does, others find them on disk.
    """
    class Announce(event.Listener):
        told = False

        def on_start(self, _):
            if not self.told:
                self.told = True
                waiting = f"; {ranks.node.size - 1} ranks wait" if ranks.node.size > 1 else ""
                say(f"compiling the kernels, once on this machine (about half a minute){waiting}")

        def on_end(self, _):
            pass

    if ranks.node.rank == 0:
        with event.install_listener("numba:compile", Announce()):
            first_step(net, 1)
            also()
    ranks.meet_after(ranks.node)


def prepare(ranks, settings, net, batch, say, also=lambda: None):
    """Compile what training needs, and also() for the caller; the Settings, measured where they say "auto"."""
    def more():
        probe.warm(settings, net.weights)
        also()

    if gpu.is_array(net.weights):
        from mpilayer.gpu.cuda_aware import cuda_aware

        warm_gpu(ranks, net, say, max(1, batch // ranks.size), more)
        if ranks.size > 1:
            progress = "poll" if settings.progress == "auto" else settings.progress  # this core is free to do that
            settings = settings._replace(cuda_aware=cuda_aware(ranks), progress=progress)
    else:
        warm(ranks, net, say, more)
    return probe.choose(ranks, settings, net.weights.nbytes, say if ranks.rank == 0 else silent)
