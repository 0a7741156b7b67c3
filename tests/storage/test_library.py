"""save() and load() around a loop of one's own: the sums that were in flight come back, and are applied once."""

import numpy as np
import pytest

import mpilayer
from mpilayer.base.errors import AgreedError
from tests.ranks import on_ranks
from tests.storage.test_checkpoints import Folder

STEPS, DELAY = 8, 2


def parameters(value):
    return mpilayer.Parameters({"w": np.full((3, 5), value, np.float32), "b": np.full(4, value, np.float32)})


class Loop:
    """SGD with momentum on gradients that depend on rank, step and weights."""

    def __init__(self, ranks, value=1.0, **given):
        self.ranks, self.parameters = ranks, parameters(value)
        self.queue = mpilayer.GradientQueue(ranks, self.parameters, delay=DELAY, progress="poll", bucket=0, chunk=None,
                                            **given)
        self.velocity = {name: np.zeros_like(self.parameters[name]) for name in self.parameters}
        self.noise = np.full(1, float(ranks.rank))

    def apply(self, up_to, clip):
        for name in self.parameters:
            for step, gradient in self.queue.settle(name, up_to=up_to):
                scale = min(1, 3 / self.queue.norm(step)) if clip else 1
                self.velocity[name] = np.float32(0.5) * self.velocity[name] + np.float32(0.01 * scale) * gradient
                self.parameters[name] -= self.velocity[name]

    def run(self, first, last, clip=False):
        for step in range(first, last):
            self.apply(step - 1 - DELAY, clip)
            self.noise += 0.5
            for name in reversed(self.parameters):
                self.queue.gradient(name, step)[...] = self.parameters[name] * (step + self.noise[0])
                self.queue.post(step, name)
        return self

    def arrays(self):
        return {**self.velocity, "noise": self.noise}

    def end(self, clip=False):
        self.apply(STEPS, clip)
        self.queue.close()
        return self.parameters.weights.copy(), self.noise.copy()


@on_ranks(1, 3)
def test_a_loop_goes_on_to_the_same_bits(ranks):
    for given in ({"reduction": "ordered"}, {"wire": "bfloat16", "error_feedback": True}, {"wire": "topk"},
                  {"wire": "powersgd", "matrix_rank": 1}):
        expected = Loop(ranks, **given).run(0, STEPS).end()
        with Folder(ranks) as folder:
            loop = Loop(ranks, **given).run(0, 4)
            mpilayer.save(folder, loop.queue, loop.arrays(), step=4, note="mine")
            loop.run(4, 5).end()
            again = Loop(ranks, value=7.0, **given)
            again.velocity = {name: np.ones_like(array) for name, array in again.velocity.items()}
            assert mpilayer.load(folder, again.queue, again.arrays()) == {"step": 4, "note": "mine"}
            for found, right in zip(again.run(4, STEPS).end(), expected, strict=True):
                assert np.array_equal(found, right), given


@on_ranks(2)
def test_sums_that_were_looked_at_before_they_were_applied(ranks):
    """norm() decodes them."""
    expected = Loop(ranks, wire="bfloat16").run(0, STEPS, clip=True).end(clip=True)
    with Folder(ranks) as folder:
        loop = Loop(ranks, wire="bfloat16").run(0, 4, clip=True)
        loop.queue.norm(3)
        mpilayer.save(folder, loop.queue, loop.arrays())
        again = Loop(ranks, value=7.0, wire="bfloat16")
        mpilayer.load(folder, again.queue, again.arrays())
        loop.run(4, 5).end()
        for found, right in zip(again.run(4, STEPS, clip=True).end(clip=True), expected, strict=True):
            assert np.array_equal(found, right)


@on_ranks(1, 2)
def test_errors(ranks):
    with Folder(ranks) as folder:
        loop = Loop(ranks)
        assert mpilayer.load(folder, loop.queue) is None
        mpilayer.save(folder, loop.queue, step=1)
        other = mpilayer.Parameters({"w": np.zeros(3, np.float32)})
        with mpilayer.GradientQueue(ranks, other, progress="poll", bucket=0, chunk=None) as queue:
            with pytest.raises(AgreedError, match=r"is of a run with parameters w 15, b 4 \| expected w 3"):
                mpilayer.load(folder, queue)
            with pytest.raises(AgreedError, match="cannot write checkpoints to /proc/none"):
                mpilayer.save("/proc/none", queue)
        with pytest.raises(AgreedError, match=r"velocity \| does not fit"):
            mpilayer.load(folder, loop.queue, {"velocity": np.zeros(3)})
        loop.queue.close()
