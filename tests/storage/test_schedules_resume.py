"""Every schedule, wire and optimizer: what goes on from a checkpoint ends with the bits of what was not interrupted."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

import nets
from mpilayer.base.state import State
from mpilayer.data import open_data, share
from mpilayer.schedules import make
from mpilayer.storage.checkpoints import Checkpoints
from mpilayer.train import NET, make_optimizer
from mpilayer.training import options as all_options
from mpilayer.training.batch import Batch
from nets.layer import Dense
from tests.ranks import TOP, on_ranks

STEPS, SIZE = 9, 13
LATE = "delayed --delay 2 --clip 0.5 --reduction ordered"
CASES = ["oneshot", "auto --reduction ordered", "layerwise", "layerwise --apply completion",
         "planned --reduction ordered", "split", LATE,
         "delayed --delay 1 --delay-compensation 0.1 --momentum-correction --wire bfloat16 --reduction ordered",
         "delayed --delay 3 --wire bfloat16 --error-feedback --reduction ordered", "delayed --delay 1 --wire topk",
         "delayed --delay 2 --wire powersgd --optimizer adamw", "delayed --delay 1 --delay-warmup 6 --optimizer adamw",
         "layerwise --wire topk --optimizer adamw", "layerwise --wire powersgd", "layerwise --net resnet-mini",
         "delayed --delay 1 --precision bfloat16", "auto --precision bfloat16 --reduction ordered",
         "delayed --delay 2 --precision bfloat16 --wire bfloat16",
         "delayed --precision bfloat16 --wire bfloat16 --clip 1",
         "local-sgd --period 4 --delay 2", "local-sgd --period 3 --wire bfloat16", "diloco --period 4 --delay 1",
         "eager-diloco --period 2", "delayed --delay layers", "delayed --delay 1 --optimizer muon --weight-prediction",
         "elastic --period 3 --delay 1", "gossip", "gossip --wire bfloat16", "ps", "ps --wire bfloat16",
         "ps --optimizer adamw", f"{TOP}/examples/new_schedule.py:Accumulated --every 4"]
SERVED = ["ps --servers 1", "ps --servers 1 --wire bfloat16"]


def samples(t):
    data = open_data("digits")
    return data.train.read(np.arange(t * SIZE, (t + 1) * SIZE))


def check_rounded(net):
    """What products read in place of weights, if there is that, is these weights."""
    for layer in net.layers:
        if layer.rounded is not None:
            np.testing.assert_array_equal(layer.rounded, layer.w.astype(layer.rounded.dtype), layer.name)


class Run:
    """A schedule on a net of its own, from the options of the main job."""

    def __init__(self, ranks, words, seed=3):
        self.options = options = all_options.read_options(["--schedule", *words.split()], NET, ranks.size)
        self.ranks, self.net = ranks, nets.build(options.net, classes=10, shape=(8, 8, 1), seed=seed,
                                           precision=options.precision)
        own = make.CHOICE.keywords(options)
        self.workers = ranks.size - make.CHOICE.parts[options.schedule].servers(**own)
        optimizer = make_optimizer(options, self.net, lambda step: 0.02 / (1 + step))
        settings = all_options.settings(options)._replace(bucket=4096, chunk=16384, progress="poll")
        self.schedule = make.make_schedule(options.schedule, self.net, ranks, optimizer, settings=settings, **own)

    def steps(self, first, last):
        """This rank's part of them."""
        for t in range(first, last if self.ranks.rank < self.workers else first):
            x, y = samples(t)
            mine = share(SIZE, self.ranks.rank, self.workers)
            self.schedule.step(t, Batch(x[mine], y[mine], SIZE, mine.start, seed=t))
        return self

    def rest(self, drained=False):
        """Between two steps, or two epochs."""
        serves = self.ranks.rank >= self.workers
        (self.schedule.drain if drained or serves else self.schedule.rest)()
        return self

    def state(self):
        return self.schedule.state() | State(own={"statistics": self.net.state})

    def end(self):
        """What every rank has, before and after a drain."""
        before = self.net.weights.copy()
        self.schedule.drain()
        self.schedule.channel.close()
        check_rounded(self.net)
        return before if self.ranks.rank < self.workers else None, self.net.weights.copy(), self.net.state.copy()


def resumed(ranks, words, folder, at, drained):
    """A run that is saved after `at` steps, goes on a little, ends, and is gone on from."""
    first = Run(ranks, words).steps(0, at).rest(drained)
    checkpoints = Checkpoints(ranks, folder, about={"what": words})
    checkpoints.save(first.state())
    first.steps(at, at + 1).end()  # which changes what has been saved, if that was no copy
    checkpoints.finish()
    second, loaded = Run(ranks, words, seed=4), checkpoints.newest()
    second.schedule.restore(loaded.of_this_rank()["state"])
    loaded.put(second.state())
    second.schedule.restored()
    checkpoints.close()
    return second.steps(at, STEPS).end()


def check(ranks, words, moments, drained=False):
    expected = None if drained else Run(ranks, words).steps(0, STEPS).end()
    for at in moments:
        if drained:
            expected = Run(ranks, words).steps(0, at).rest(drained).steps(at, STEPS).end()
        folder = Path(ranks.bcast(tempfile.mkdtemp() if ranks.rank == 0 else None))
        found = resumed(ranks, words, folder, at, drained)
        for a, b in zip(found, expected, strict=True):
            assert np.array_equal(a, b) if b is not None else a is None, (words, at)
        ranks.meet()
        if ranks.rank == 0:
            shutil.rmtree(folder)


@on_ranks(2, 3, seconds=200)
def test_the_bits_are_those_of_a_run_that_was_not_interrupted(ranks):
    """On three ranks every fourth case."""
    for number, words in enumerate(CASES[::1 if ranks.size == 2 else 4]):
        check(ranks, words, [1 + (number + ranks.size) % 7])


@on_ranks(2)
def test_weights_that_products_read_are_those_of_every_schedule(ranks):
    for name, kind in make.CHOICE.parts.items():
        run = Run(ranks, f"{name} --precision bfloat16").steps(0, 3)
        run.end()
        assert (run.net.layers[-1].rounded is not None) == kind.only_updates, name


@on_ranks(2)
def test_layers_write_gradients_as_they_travel(ranks):
    """Where they can, and nothing else needs them: then they are those that would be rounded afterwards, to the bit."""
    short = "--precision bfloat16 --wire bfloat16"
    for words, dtype in ((f"oneshot {short}", "bfloat16"), (f"planned {short}", "bfloat16"), ("oneshot", "float32"),
                         (f"delayed --delay 2 {short}", "bfloat16"), (f"layerwise {short} --error-feedback", "float32"),
                         ("layerwise --precision bfloat16", "float32"), ("layerwise --wire bfloat16", "float32"),
                         (f"local-sgd --period 2 {short}", "float32"), (f"ps {short}", "float32")):
        run = Run(ranks, words).steps(0, 4)
        written = {layer.kind: layer.g.dtype.name for layer in run.net.layers}
        assert written == {"conv": "float32", "dense": dtype}, words
        mine, Dense.rounds_gradient = run.end()[1], False
        try:
            np.testing.assert_array_equal(mine, Run(ranks, words).steps(0, 4).end()[1], words)
        finally:
            Dense.rounds_gradient = True


@on_ranks(2, seconds=100)
def test_after_any_number_of_steps(ranks):
    check(ranks, "local-sgd --period 4 --delay 2", range(1, 8))
    check(ranks, LATE, range(1, 4))


@on_ranks(2)
def test_after_a_drain(ranks):
    """As at the end of an epoch."""
    for words in ("delayed --delay 1 --wire powersgd", "local-sgd --period 3", "planned --reduction ordered"):
        check(ranks, words, [5], drained=True)


@on_ranks(3)
def test_with_ranks_that_only_serve(ranks):
    for words in SERVED:
        check(ranks, words, [2])


@on_ranks(2)
def test_a_schedule_that_does_not_say_what_it_keeps_is_named(ranks):
    run = Run(ranks, "layerwise").steps(0, 1).rest()
    type(run.schedule.optimizer).keeps, kept = None, type(run.schedule.optimizer).keeps
    with pytest.raises(Exception, match=r"MomentumSGD \| does not say what a checkpoint must hold of it"):
        run.state()
    type(run.schedule.optimizer).keeps = kept
    run.end()
