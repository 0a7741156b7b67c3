"""Every schedule against a serial loop of the rule it was published as."""

from types import SimpleNamespace

import numpy as np
import pytest

import nets
from mpilayer.data import open_data, share
from mpilayer.optim import MomentumSGD
from mpilayer.pending import Queue, Settings
from mpilayer.schedules import schedule
from mpilayer.tracing import Trace, Watched
from mpilayer.train import Batch
from tests.ranks import on_ranks

STEPS, SIZE, MOMENTUM, DECAY = 9, 13, 0.9, 5e-3
ROUNDING = 2e-5  # of the distance the weights have moved


def rate(step):
    return 0.02 / (1 + step)


def build():
    return nets.build("alexnet-mini", classes=10, shape=(8, 8, 1), seed=3)


def samples(t):
    data = open_data("digits")
    return data.train.read(np.arange(t * SIZE, (t + 1) * SIZE))


def serial(delay, steps=STEPS, drains=()):
    """w after the published rule on one process: g(t) is taken at weights that have seen g(0) ... g(t-1-delay)."""
    net, waiting = build(), []
    velocity = np.zeros_like(net.weights, dtype=np.float64)

    def apply(step, gradient):
        nonlocal velocity
        velocity = MOMENTUM * velocity + rate(step) * (gradient + DECAY * net.weights.astype(np.float64))
        net.weights[:] = net.weights - velocity

    for t in range(steps):
        if len(waiting) > delay:
            apply(*waiting.pop(0))
        x, y = samples(t)
        for _ in (*net.forward(Batch(x, y, SIZE, seed=t)), *net.backward()):
            pass
        waiting.append((t, net.gradients[0].astype(np.float64)))
        while waiting and (t in drains or t == steps - 1):
            apply(*waiting.pop(0))
    return net


def make(name, delay, apply, *parts):
    return schedule(*parts, SimpleNamespace(schedule=name, delay=delay, apply=apply))


def parallel(ranks, name, delay=0, steps=STEPS, drains=(), apply="lazy", **settings):
    """The same through the schedule, each rank on its share."""
    net, trace = build(), Trace()
    optimizer = MomentumSGD(net.layers, rate, trace, momentum=MOMENTUM, weight_decay=DECAY)
    queue = Queue(ranks, trace, Settings(**{"bucket": 0, **settings}))
    chosen = make(name, delay, apply, Watched(net, trace), queue, optimizer)
    for t in range(steps):
        x, y = samples(t)
        mine = share(SIZE, ranks.rank, ranks.size)
        chosen.step(t, Batch(x[mine], y[mine], SIZE, mine.start, seed=t))
        if t in drains:
            chosen.drain()
    chosen.drain()
    assert queue.engine.quiet
    queue.close()
    return net


def distance(net, other):
    """How far apart two nets are, as a share of how far the first has moved."""
    moved = np.abs(net.weights - build().weights).max()
    return np.abs(net.weights - other.weights).max() / moved


@on_ranks(1, 2, 3, 4, 7)
def test_one_shot_and_layerwise_equal_one_process(ranks):
    oracle = serial(0)
    for name, progress in [("oneshot", "none"), ("layerwise", "none"), ("layerwise", "poll"), ("delayed", "poll")]:
        assert distance(oracle, parallel(ranks, name, progress=progress)) < ROUNDING, name


@on_ranks(2)
def test_layerwise_and_delay_nothing_give_the_bits_of_oneshot(ranks):
    hashes = {parallel(ranks, name, 0).weights_sha256() for name in ("oneshot", "layerwise", "delayed")}
    assert len(hashes) == 1
    assert len(set(ranks.gather(hashes.pop()))) == 1


@on_ranks(1, 3)
def test_delayed_equals_the_published_rule(ranks):
    for delay in (1, 2, 3, 5):
        oracle = serial(delay)
        assert distance(oracle, parallel(ranks, "delayed", delay)) < ROUNDING, delay
        assert distance(oracle, serial(delay - 1)) > 100 * ROUNDING, "the test could not tell delays apart"


@on_ranks(2)
def test_a_drain_applies_what_is_in_flight_and_starts_anew(ranks):
    for drains in [(3,), (0, 4, 5)]:
        oracle = serial(2, drains=drains)
        assert distance(oracle, parallel(ranks, "delayed", 2, drains=drains)) < ROUNDING, drains
        assert distance(oracle, serial(2)) > 100 * ROUNDING, "the drain made no difference"


@on_ranks(2)
def test_fewer_steps_than_the_delay(ranks):
    assert distance(serial(3, steps=2), parallel(ranks, "delayed", 3, steps=2)) < ROUNDING


@on_ranks(2)
def test_a_delay_of_k_keeps_k_plus_one_gradient_buffers(ranks):
    assert [len(parallel(ranks, "delayed", k, steps=6).gradients) for k in (0, 1, 3)] == [1, 2, 4]


@on_ranks(2)
def test_posting_memory_in_flight_is_refused(ranks):
    net = build()
    queue = Queue(ranks, Trace(), Settings(bucket=0))
    queue.open(net, slots=1)
    queue.post(0, net.layers[0])
    with pytest.raises(RuntimeError, match=r"step 1 \| conv1 \| .*k \+ 1 gradient buffers"):
        queue.post(1, net.layers[0])


def test_learning_rate_policies_follow_caffe():
    from types import SimpleNamespace

    from mpilayer.optim import learning_rate

    options = SimpleNamespace(lr=0.1, lr_policy="step", lr_step=10, lr_gamma=0.5, lr_power=2.0, warmup=0)
    step = learning_rate(options, 100)
    assert [step(t) for t in (0, 9, 10, 25)] == [0.1, 0.1, 0.05, 0.025]
    options.lr_policy = "poly"
    assert learning_rate(options, 100)(50) == pytest.approx(0.1 * 0.25)
    options.lr_policy, options.warmup = "fixed", 4
    assert [learning_rate(options, 100)(t) for t in (0, 1, 3, 4, 99)] == pytest.approx([0.025, 0.05, 0.1, 0.1, 0.1])
