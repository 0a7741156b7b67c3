"""A replayed pass is the pass: the same bits as kernels launched one by one, whatever changes from step to step."""

import numpy as np
import pytest

import nets
from kernels import check_target, gpu
from kernels.gpu import fetch
from mpilayer.training.batch import Batch
from nets.blocks import Dropout, Loss
from nets.composite import Sequence
from nets.layer import Dense
from nets.memory import Memory
from nets.net import Net

SIZES = (3, 3, 3, 2, 3, 2, 2, 3)  # of the batches: whole ones, and those of an epoch's end


class Foreign(Dropout):
    """A user's block, of which nobody knows whether it does the same in every step."""


def small(memory, drop=Dropout):
    """A net with dropout, two gradient buffers and labels."""
    return Net(Sequence(Dense("one", 24), drop("drop", 0.5), Dense("two", 5, relu=False), Loss()), (7,), memory)


def steps(net, sizes=SIZES, slots=2):
    """(loss, gradients, weights) of each step of descent; dropout and samples differ from step to step."""
    rng, found = np.random.default_rng(5), []
    for step, size in enumerate(sizes):
        x, y = rng.standard_normal((size, *net.shape), np.float32), rng.integers(0, net.classes, size)
        net.write_gradients_to(step % slots)
        if step == 5:  # an evaluation in between
            for _ in net.forward(Batch(net.put(x), net.put(y), size, training=False)):
                pass
        order = [layer.name for layer in net.forward(Batch(net.put(x), net.put(y), 8, first=step, seed=2**40 + step))]
        order += [layer.name for layer in net.backward()]
        g = net.gradients[step % slots]
        found.append((float(net.loss), fetch(net.logits).tobytes(), fetch(g).tobytes(), order))
        net.weights -= np.float32(0.1) * g
    return found


@pytest.mark.parametrize("streams", ["eager", "late"])
def test_steps_have_the_bits_of_those_launched_one_by_one(device, streams):
    with device.emulator.mode(streams=streams):
        replayed, launched = small(Memory("gpu")), small(Memory("gpu"))
        launched.replay = None
        assert steps(replayed) == steps(launched)
    recorded = replayed.replay.recorded.values()
    assert sorted(len(forward.x) for forward in recorded) == [2, 3]
    assert all(forward.backward.keys() == {0, 1} for forward in recorded if len(forward.x) == 3)


@pytest.mark.parametrize("name", ["alexnet-mini", "resnet-mini", "transformer-mini"])
def test_nets_have_the_bits_of_kernels_launched_one_by_one(device, name):
    """With residuals and statistics of batch normalization, which go on from step to step."""
    both = []
    for keep in (True, False):
        net = nets.build(name, device="gpu", **({"shape": (6,)} if name.startswith("transformer") else {}))
        net.replay = net.replay if keep else None
        x, y = net.example(2, np.random.default_rng(1))
        for step in range(4):
            for _ in (*net.forward(Batch(x, y, 2, seed=step)), *net.backward()):
                pass
            net.weights -= np.float32(0.01) * net.gradients[0]
        both.append((float(net.loss), fetch(net.weights).tobytes(), fetch(net.state).tobytes()))
    assert both[0] == both[1]


def test_only_so_many_shapes_are_recorded(device):
    net, sizes = small(Memory("gpu")), (1, 2, 3, 4)
    launched = small(Memory("gpu"))
    launched.replay = None
    assert steps(net, 3 * sizes) == steps(launched, 3 * sizes)
    assert len(net.replay.recorded) == 2


def test_a_pass_that_is_not_ended_is_recorded_anew(device):
    net = small(Memory("gpu"))
    batch = Batch(net.put(np.ones((3, 7), np.float32)), net.put(np.arange(3)), 3)
    list(net.forward(batch))
    next(net.forward(batch))
    assert not net.replay.recorded
    list(net.forward(batch))
    assert len(net.replay.recorded) == 1


def test_foreign_blocks_are_launched_one_by_one(device):
    assert small(Memory("gpu"), Foreign).replay is None
    assert small(Memory()).replay is None


def test_dropout_reads_seed_and_first_in_the_memory_of_the_gpu(device):
    x, place = np.ones((5, 9), np.float32), check_target.on_gpu(np.float32)
    both = Dropout("a", 0.4), Dropout("a", 0.4)
    cupy = gpu.cupy()
    here = Batch(place.x(x), None, 5, first=3, seed=2**63 + 5)
    there = Batch(place.x(x), None, 5, first=cupy.full(1, 3, np.uint64), seed=cupy.full(1, 2**63 + 5, np.uint64))
    masks = []
    for block, batch in zip(both, (here, there), strict=True):
        list(block.forward(batch.x, batch))
        masks.append(fetch(block.mask))
    assert np.array_equal(*masks)
    assert 0 < masks[0].sum() < x.size
