"""Whether all ranks have the same weights: before the first step, while training, and at the end."""

import hashlib
import importlib.metadata
import platform
import socket

import numpy as np

import mpilayer
from kernels import compiled, gpu
from kernels.gpu import fetch
from mpilayer.base.errors import AgreedError, UserError
from mpilayer.base.state import State
from mpilayer.mpi.agreement import are_equal, compare, digest, equal_on_all, extremes, named
from mpilayer.mpi.job import library

jit, _ = compiled.decorators()
PACKAGES = "numpy", "numba", "h5py"
SAMPLES = 16  # of each part of the data that are compared
EQUAL = "equal"  # what run.json says of the weights of all ranks
FACTOR = 0x9E3779B97F4A7C15  # odd


@jit
def _digest(words):
    total = np.uint64(0)
    for i in range(words.size):
        total += np.uint64(words[i]) * (np.uint64(2 * i) * np.uint64(FACTOR) + np.uint64(1))
    return total


def layer_digests(net):
    """(layers,) uint64, a digest of each layer's weights; it differs if one bit does, or if two numbers are swapped.

    Each 32-bit word is multiplied by an odd number that depends on its position, and the products are added modulo
    2^64: the difference of two positions' factors has at most 32 factors of 2, that of two words at most 31.
    """
    return np.array([_digest(fetch(layer.w).view(np.uint32)) for layer in net.layers], np.uint64)


def digest_of_all(digests):
    """64 bits of the digests of all layers: others if one digest is, or if two layers swap numbers."""
    return (digests * np.arange(1, 2 * len(digests), 2, dtype=np.uint64)).sum(dtype=np.uint64)


def versions(ranks):
    """{package: version} of what has a say in the numbers. The instruction set has none: all give the same bits."""
    return {"Python": platform.python_version(), "MPI": library(ranks.MPI),
            "mpilayer": mpilayer.__version__, **{package: importlib.metadata.version(package) for package in PACKAGES}}


def _contents(part):
    try:
        x, y = part.read(np.unique(np.linspace(0, len(part) - 1, SAMPLES).astype(np.int64)))
    except UserError as error:  # which is raised again where that sample is wanted
        return str(error)
    return hashlib.blake2b(x.tobytes() + y.tobytes() + getattr(part, "labels", y).tobytes(), digest_size=8).hexdigest()


def data_facts(data):
    """What identifies data: sizes, and a digest of some samples and of all labels of images."""
    facts = {"data": data.name, "shape of the data": data.shape, "classes of the data": data.classes}
    for name, part in (("training", data.train), ("test", data.test)):
        facts[f"{name} samples"] = len(part)
        facts[f"digest of {name} samples"] = _contents(part)
    return facts


def same_start(ranks, net, data):
    """Raise AgreedError unless data and sizes of the net are the same on all ranks; then give all the first rank's
    weights.
    """
    compare(ranks, {**data_facts(data), "weights": net.weights.size}, "the same files on all hosts")
    for array in (net.weights, net.state):
        share(ranks, net, array)


def who_has(ranks, weights):
    """EQUAL, or {SHA-256 of weights: ranks that have them}."""
    if all(equal_on_all(ranks, digest(weights))):
        return EQUAL
    having = {}
    for rank, each in enumerate(ranks.gather_to_first(weights) or ()):
        having.setdefault(each, []).append(rank)
    return ranks.bcast(having)


def share(ranks, net, array, root=0):
    """Give all ranks what one of them has in an array of the net's."""
    here = fetch(array)
    ranks.broadcast(here, root)
    if gpu.is_array(array):
        array[:] = net.put(here)


class ReplicaCheck:
    """Compares the weights of all ranks at the end of a step, or after a drain: one sum of two numbers of 64 bits.

    In the midst of an epoch its result is looked at one step later, so that nobody waits for it.

    name        of the schedule, for messages
    channel     what moves messages meanwhile
    every       steps from one check to the next; 0: at the end of each epoch only; None: never
    optimizer   whose state is part of what `heal` gives to ranks that differ; None: differing is an error
    """

    def __init__(self, name, ranks, net, channel, say, every=0, optimizer=None):
        self.name, self.ranks, self.net, self.channel, self.say = name, ranks, net, channel, say
        self.every, self.optimizer, self.request = every, optimizer, None
        self.comm = ranks.duplicate()

    def after_step(self, t):
        """Look at what was begun a step ago; begin if it is time."""
        if self.request is not None:
            self._finish()
        if self.every and (t + 1) % self.every == 0:
            self._begin(t)

    def after_drain(self, t):
        """Compare now; t was the last step."""
        if self.request is not None:
            self._finish()
        if self.every is not None:
            self._begin(t)
            self._finish()

    def close(self):
        """Give the communicator back."""
        self.comm.Free()

    def _begin(self, t):
        self.where, self.digests = f"{self.name} | step {t}", layer_digests(self.net)
        self.least = extremes(digest_of_all(self.digests))
        self._start(lambda: self.comm.Iallreduce(self.ranks.MPI.IN_PLACE, self.least, op=self.ranks.MPI.MIN))

    def _start(self, start):
        with self.channel.engine.held():
            self.request = start()

    def _arrived(self):
        with self.channel.engine.held():
            return self.request.Test()

    def _wait(self):
        """Others may need messages of this rank to come as far."""
        self.channel.wait(self._arrived, "the digests of all ranks")
        self.request = None

    def _finish(self):
        self._wait()
        if not are_equal(self.least):
            self._start(self.comm.Ibarrier)
            self._wait()  # from here on nobody waits for messages
            with self.channel.engine.held():
                self._differ(self.ranks.gather((socket.gethostname(), int(digest_of_all(self.digests)))))

    def _differ(self, everyone):
        """Name the ranks that differ from most, and the first layer that does; heal them, or raise AgreedError."""
        groups = {}
        for rank, (host, found) in enumerate(everyone):
            groups.setdefault(found, []).append((rank, host))
        most = max(groups.values(), key=len)
        others = sorted(member for group in groups.values() if group is not most for member in group)
        pairs = zip(self.net.layers, self._digests_of(most[0][0]), self._digests_of(others[0][0]), strict=True)
        layer = next(layer.name for layer, right, wrong in pairs if right != wrong)
        told = f"{self.where} | {layer} | its weights on {named(others)} differ from those on {named(most)}"
        if 2 * len(most) <= len(everyone):
            raise AgreedError(f"{told} | expected equal weights; no majority has them | try: training again; memory or"
                              " network of these hosts")
        if self.optimizer is None:
            raise AgreedError(f"{told} | expected equal weights | try: memory and network of these hosts, --heal")
        for array in (self.net.weights, *State.of(self.optimizer).own.values()):
            share(self.ranks, self.net, array, most[0][0])
        self.say(f"{told}: they now have those of the majority")

    def _digests_of(self, rank):
        """Of a rank's layers, on all ranks."""
        digests = self.digests.copy()
        self.ranks.broadcast(digests, rank)
        return digests
