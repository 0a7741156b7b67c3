"""Schedules beyond sums of gradients: each against its published rule, or what it must never lose."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest

import nets
from mpilayer.base.tracing import Trace
from mpilayer.data import share
from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.exchange.mailbox import Mailbox
from mpilayer.mpi.shared_counter import SharedCounter
from mpilayer.schedules import make, partial
from mpilayer.schedules.gossip import partner
from mpilayer.schedules.server import Server
from mpilayer.train import NET
from mpilayer.training import options as all_options
from mpilayer.training.batch import Batch
from mpilayer.training.optim import MomentumSGD
from mpilayer.training.slowed import Slowed
from tests.ranks import on_ranks
from tests.schedules.test_schedules import (
    DECAY,
    MOMENTUM,
    ROUNDING,
    SIZE,
    STEPS,
    build,
    distance,
    rate,
    samples,
    serial,
)

CONSTANT = 0.01


class Recorded:
    """A net that adds up its gradients, each when it is final."""

    def __init__(self, net):
        self._net, self.pushed = net, np.zeros(net.weights.size)

    def backward(self):
        for layer in self._net.backward():
            self.pushed[slice(*self._net.offsets[layer.name])] += layer.g
            yield layer

    def __getattr__(self, name):
        return getattr(self._net, name)


class Run:
    """A schedule given as options of the main job, and what happened to it."""

    def __init__(self, ranks, words, net=None, momentum=0.0, decay=0.0, rate=lambda step: CONSTANT, **settings):
        options = all_options.read_options(["--schedule", *words.split()], NET, ranks.size)
        own, plain = make.CHOICE.keywords(options), {"bucket": 0, "chunk": None, "progress": "poll"}
        self.ranks, self.net, trace = ranks, net or build(), Trace()
        self.start, self.recorded = self.net.weights.copy(), Recorded(self.net)
        optimizer = MomentumSGD(self.net, rate, momentum=momentum, weight_decay=decay,
                                delay_compensation=options.delay_compensation,
                                momentum_correction=options.momentum_correction)
        self.schedule = make.make_schedule(
            options.schedule, self.recorded, ranks, optimizer, trace=trace,
            settings=all_options.settings(options)._replace(**{**plain, **settings}), **own)
        self.channel = self.schedule.channel
        self.workers = ranks.size - self.schedule.servers(**own)
        self.channel.pause()

    def steps(self, count, batch=samples, first=0):
        """So many steps on this rank's shares."""
        self.channel.resume()
        for t in range(first, first + count if self.ranks.rank < self.workers else first):
            x, y = batch(t)
            mine = share(len(y), self.ranks.rank, self.workers)
            self.schedule.step(t, Batch(x[mine], y[mine], len(y), mine.start, seed=t))
        self.schedule.drain()
        self.channel.pause()
        return self

    def close(self):
        """The net."""
        self.channel.close()
        return self.net

    def expected(self, left=0):
        """Weights after all gradients of all ranks, but for what is `left` on each, at a constant rate."""
        return self.start - CONSTANT * self.ranks.total(self.recorded.pushed - left)


def off(found, wanted, start):
    return np.abs(found - wanted).max() / np.abs(wanted - start).max()


EXACT = ["split", "ps", "local-sgd --period 1", "diloco --period 1 --outer-lr 1 --outer-momentum 0",
         "elastic --period 1 --elasticity 1"]


@on_ranks(1, 3)
def test_with_a_period_of_one_or_no_staleness_all_are_synchronous_sgd(ranks):
    oracle = serial(0)
    dedicated = [f"ps --servers {count}" for count in (1, 2) if count < ranks.size]
    for words in [*EXACT[:4], f"partial --quorum {ranks.size}", *dedicated]:
        net = Run(ranks, words, momentum=MOMENTUM, decay=DECAY, rate=rate).steps(STEPS).close()
        assert distance(oracle, net) < ROUNDING, words
        assert len(set(ranks.gather(net.weights_sha256()))) == 1, words


@on_ranks(2, 3)
def test_servers_and_halves_have_the_bits_of_sums_in_rank_order(ranks):
    """Whatever the messages: ((g_0 + g_1) + g_2)."""
    def bits(words, **settings):
        return Run(ranks, words, momentum=MOMENTUM, decay=DECAY, rate=rate, **settings).steps(
            STEPS).close().weights_sha256()

    hashes = {bits("oneshot", reduction="ordered"), bits("layerwise", reduction="levels"), bits("ps"), bits("split"),
              bits("split", chunk=4096, progress="kernel"), bits("split", bucket=None, progress="thread")}
    assert len(hashes) == 1


KEEPING = ["gossip", "ps --staleness 1", "ps --staleness none", "rma", "rma --staleness 1", "partial",
           "partial --quorum 1", "local-sgd --period 3", "local-sgd --period 3 --delay 2",
           "diloco --period 2 --outer-lr 1 --outer-momentum 0",
           "eager-diloco --period 3 --outer-lr 1 --outer-momentum 0"]


@on_ranks(1, 3)
def test_no_gradient_is_lost_or_applied_twice(ranks):
    """At a constant rate, without momentum, the last weights are the first ones less every gradient of every rank."""
    dedicated = ["ps --servers 1 --staleness none"] if ranks.size > 1 else []
    for words in [*KEEPING, *dedicated]:
        for progress in ("poll", "kernel", "thread"):
            run = Run(ranks, words, progress=progress).steps(STEPS)
            wanted = run.expected()
            assert off(run.close().weights, wanted, run.start) < 1e-4, (words, progress)
            assert len(set(ranks.gather(run.net.weights_sha256()))) == 1, words


@on_ranks(3)
def test_after_a_drain_all_goes_on(ranks):
    for bucket, words in itertools.product((0, 1 << 20), KEEPING):
        run = Run(ranks, words, bucket=bucket).steps(4).steps(3, first=4)
        wanted = run.expected()
        assert off(run.close().weights, wanted, run.start) < 1e-4, words


@on_ranks(2, 3)
def test_what_compression_leaves_out_is_kept(ranks):
    """The weights are those after all gradients but for what is still in the errors."""
    for wire in ("topk", "topk --top-share 0.3", "powersgd", "powersgd --matrix-rank 1"):
        for words in ("oneshot", "layerwise", "planned", "delayed --delay 2", "local-sgd --period 2"):
            run = Run(ranks, f"{words} --wire {wire}").steps(STEPS)
            left = np.zeros(run.net.weights.size)
            for name, (begin, end) in run.net.offsets.items():
                left[begin:end] = run.channel.compressor.residuals.get(name, 0)
            if words.startswith("local"):  # what is left is of differences, not of gradients
                left /= CONSTANT
            wanted = run.expected(left)
            assert off(run.close().weights, wanted, run.start) < 1e-4, (wire, words)
            assert np.abs(left).max() > 0
    assert distance(serial(0), Run(ranks, "layerwise --wire topk --top-share 1", momentum=MOMENTUM, decay=DECAY,
                                   rate=rate).steps(STEPS).close()) < ROUNDING


def simulated(P, period, delay, merge):
    """The weights of P ranks after STEPS steps of their own; merge(centre, thens) gives what each goes on from."""
    net, start = build(), build().weights.astype(np.float64)
    w, v, centre = [start.copy() for _ in range(P)], [0.0] * P, start.copy()
    waiting = None
    for t in range(STEPS):
        if waiting and t == waiting[0] + delay:
            merged, centre = merge(centre, waiting[1])
            w = [m + (now - then) for m, now, then in zip(merged, w, waiting[1], strict=True)]
            waiting = None
        for r in range(P):
            net.weights[:] = w[r]
            (x, y), mine = samples(t), share(SIZE, r, P)
            for _ in (*net.forward(Batch(x[mine], y[mine], SIZE, mine.start, seed=t)), *net.backward()):
                pass
            v[r] = MOMENTUM * v[r] + rate(t) * P * net.gradients[0]
            w[r] = w[r] - v[r]
        if (t + 1) % period == 0:
            waiting = (t + 1, [each.copy() for each in w])
    assert waiting, "the drain at the end is the merge at the end of a period"
    merged, centre = merge(centre, waiting[1])
    return merged, centre


@on_ranks(2, 3)
def test_local_steps_diloco_and_elastic_averaging_follow_their_papers(ranks):
    P = ranks.size
    velocity = np.zeros(build().weights.size)

    def average(centre, thens):
        return [sum(thens) / P] * P, sum(thens) / P

    def nesterov(centre, thens):
        nonlocal velocity
        d = 0.5 * (centre - sum(thens) / P)
        velocity = 0.8 * velocity + d
        return [centre - 0.8 * velocity - d] * P, centre - 0.8 * velocity - d

    def springs(centre, thens):
        pull = 0.6 / P
        return [x - pull * (x - centre) for x in thens], centre + pull * sum(x - centre for x in thens)

    for words, merge, delay in [("local-sgd", average, 0), ("local-sgd", average, 2), ("elastic --elasticity 0.6",
                                springs, 0), ("elastic --elasticity 0.6", springs, 1),
                                ("diloco --outer-lr 0.5 --outer-momentum 0.8", nesterov, 0)]:
        _, centre = simulated(P, 3, delay, merge)
        run = Run(ranks, f"{words} --period 3 --delay {delay}", momentum=MOMENTUM, rate=rate).steps(STEPS)
        assert off(run.close().weights, centre, run.start) < 1e-4, (words, delay)


@on_ranks(2, 3)
def test_one_sided_steps_have_a_bound(ranks):
    """The last rank begins late: until then it looks how often the others have updated what is in its memory."""
    def late(t):
        if t == 0 and ranks.rank == ranks.size - 1:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                run.channel.comm.Iprobe()  # a call of MPI, in which others reach this memory
                time.sleep(1e-3)
            seen.append(run.schedule.updates.max())
        return samples(t)

    for bound in (0, 2, "none"):
        run, seen = Run(ranks, f"rma --staleness {bound}"), []
        run.steps(STEPS, late).close()
        for most in seen:
            allowed = STEPS if bound == "none" else bound + 1
            assert most == (ranks.size - 1) * allowed, (bound, most)


@on_ranks(2, 3)
def test_eager_diloco_follows_its_paper(ranks):
    """Each rank moves by its own difference at once, and by the others' a period later."""
    P, H, outer, m = ranks.size, 2, 0.5, 0.8
    net, start = build(), build().weights.astype(np.float64)
    w, anchors = [[start.copy() for _ in range(P)] for _ in range(2)]
    v, V, own, mean = [0.0] * P, [0.0] * P, [0.0] * P, None
    for t in range(STEPS):
        (x, y) = samples(t)
        for r in range(P):
            net.weights[:], mine = w[r], share(SIZE, r, P)
            for _ in (*net.forward(Batch(x[mine], y[mine], SIZE, mine.start, seed=t)), *net.backward()):
                pass
            v[r] = MOMENTUM * v[r] + rate(t) * P * net.gradients[0]
            w[r] = w[r] - v[r]
        if (t + 1) % H == 0:
            others = [0.0 if mean is None else mean - mine for mine in own]
            own = [(anchors[r] - w[r]) / P for r in range(P)]
            mean = sum(own)
            for r in range(P):
                V[r] = m * V[r] + outer * (own[r] + others[r])
                anchors[r] = anchors[r] - m * V[r] - outer * (own[r] + others[r])
                w[r] = anchors[r].copy()
    wanted = sum(w[r] - (mean - own[r]) for r in range(P)) / P
    for bucket in (0, 1 << 20):  # layers by themselves, and in one message
        run = Run(ranks, f"eager-diloco --period {H} --outer-lr {outer} --outer-momentum {m}", momentum=MOMENTUM,
                  rate=rate, bucket=bucket)
        assert off(run.steps(STEPS).close().weights, wanted, run.start) < 1e-4


def test_everyone_meets_everyone_and_pairs_agree():
    for size in range(1, 12):
        for number in range(2 * size + 1):
            pairs = [partner(rank, size, number) for rank in range(size)]
            assert all(other is None or (other != rank and pairs[other] == rank) for rank, other in enumerate(pairs))
            assert pairs.count(None) == size % 2
        met = [{partner(rank, size, number) for number in range(size + size % 2 - 1)} for rank in range(size)]
        assert all(others - {None} == set(range(size)) - {rank} for rank, others in enumerate(met))


@on_ranks(2, 3)
def test_gossip_keeps_the_mean_and_brings_ranks_together(ranks):
    """From different weights, at a rate of nothing; rounding to bfloat16 keeps the mean as well."""
    for words in ("gossip", "gossip --wire bfloat16"):
        run = Run(ranks, words, rate=lambda step: 0.0)
        mine = np.random.default_rng(ranks.rank).standard_normal(run.net.weights.size, np.float32)
        for part in run.schedule.ahead.values():
            part.w[:] = mine[:part.w.size]

        def state(run=run):
            return np.concatenate([run.schedule.ahead[layer.name].w for layer in run.net.layers]).astype(np.float64)

        mean = ranks.total(state()) / ranks.size
        spread = ranks.total(np.abs(state() - mean))
        run.channel.resume()
        for t in range(12):
            x, y = samples(t)
            run.schedule.step(t, Batch(x[:1], y[:1], SIZE, seed=t))
        for layer in run.net.layers:
            run.schedule.hear(layer)
            run.schedule.ahead[layer.name].w[:] = layer.w
        run.channel.pause()
        np.testing.assert_allclose(ranks.total(state()) / ranks.size, mean, atol=1e-4)
        assert ranks.total(np.abs(state() - mean)).max() < spread.max() * (0.2 if ranks.size > 2 else 0.01)
        run.close()


@on_ranks(2, 3)
def test_staleness_stays_within_its_bound(ranks):
    """One rank is slow; clocks are never further apart than the bound allows, nor gradients older."""
    for bound in (1, 2):
        for dedicated in (0, 1):
            run, furthest = Run(ranks, f"ps --staleness {bound} --servers {dedicated}"), [0]
            received = run.schedule.server._received

            def seen(worker, tag, received=received, furthest=furthest, server=run.schedule.server):
                received(worker, tag)
                clock = server.clocks[tag][np.isfinite(server.clocks[tag])]
                furthest[0] = max(furthest[0], clock.max() - clock.min())

            run.schedule.server._received = seen
            pull = run.schedule.pull
            run.schedule.pull = lambda layer, pull=pull: (time.sleep(0.003 * (ranks.rank == 0)), pull(layer))
            run.steps(STEPS)
            counted = sum(ranks.gather(run.schedule.staleness), start=type(run.schedule.staleness)())
            assert furthest[0] <= bound + 1
            assert max(counted) <= (run.workers - 1) * (2 * bound + 1)
            assert sum(counted.values()) == STEPS * run.workers * sum(map(len, run.schedule.messages.values()))
            run.close()


@on_ranks(2)
def test_late_gradients_are_compensated_at_the_weights_they_were_taken_at(ranks):
    """delayed(2): g + 0.5 g^2 (w - w_then), in a serial loop."""
    net, waiting, factor = build(), [], 0.5

    def apply(step, gradient, then):
        moved = gradient + factor * gradient**2 * (net.weights - then)
        net.weights[:] = net.weights - CONSTANT * moved

    for t in range(STEPS):
        if len(waiting) > 2:
            apply(*waiting.pop(0))
        x, y = samples(t)
        then = net.weights.astype(np.float64)
        for _ in (*net.forward(Batch(x, y, SIZE, seed=t)), *net.backward()):
            pass
        waiting.append((t, net.gradients[0].astype(np.float64), then))
    while waiting:
        apply(*waiting.pop(0))
    found = Run(ranks, f"delayed --delay 2 --delay-compensation {factor}").steps(STEPS).close()
    without = Run(ranks, "delayed --delay 2").steps(STEPS).close()
    assert distance(net, found) < 2e-5
    assert distance(net, without) > 1e-3, "the test could not see compensation"


@on_ranks(3)
def test_servers_compensate_and_correct(ranks):
    """Nothing is late while they wait for all; then both options change what happens."""
    for option in ("--delay-compensation 0.5", "--momentum-correction"):
        plain, other = (Run(ranks, f"ps {more}", momentum=0.5).steps(STEPS).close() for more in ("", option))
        assert plain.weights_sha256() == other.weights_sha256()
    run = Run(ranks, "ps --staleness none --delay-compensation 0.5").steps(STEPS)
    wanted, told = run.expected(), run.schedule.server.told
    assert off(run.close().weights, wanted, run.start) > 1e-4 or max(run.schedule.staleness) == 0
    assert told


EVERY = [*EXACT, *KEEPING, "elastic --period 2", "oneshot", "layerwise", "planned", "delayed --delay 2",
         "layerwise --wire topk", "delayed --wire powersgd"]


@pytest.mark.parametrize("kind", ["resnet-mini", "transformer-mini"])
def test_every_schedule_trains_every_net(kind):
    every_net(kind)


def every_net(kind):
    from tests.ranks import mpiexec

    done = mpiexec(2, "-c", f"from tests.schedules.test_baselines import train_all; train_all({kind!r})", seconds=120)
    assert done.returncode == 0, done.stdout + done.stderr


def train_all(kind):
    """Two steps of every schedule; weights end finite, moved, and the same everywhere."""
    from mpilayer.mpi.job import job

    with job() as ranks:
        for words in EVERY:
            shape = (12,) if kind == "transformer-mini" else (16, 16, 3)
            net = nets.build(kind, classes=10, shape=shape, seed=3)
            run = Run(ranks, words, net).steps(2, lambda t: net.example(7, np.random.default_rng(t)))  # noqa: B023
            run.close()
            assert np.isfinite(net.weights).all(), words
            assert (net.weights != run.start).mean() > 0.01, words
            assert len(set(ranks.gather(net.weights_sha256()))) == 1, words


def sleepy(function, random):
    def slept(*arguments, **more):
        if random.random() < 0.1:
            time.sleep(random.exponential(1e-3))
        return function(*arguments, **more)

    return slept


POINTS = [(GradientQueue, "post"), (GradientQueue, "test"), (GradientQueue, "has_arrived"), (Mailbox, "send"),
          (Mailbox, "receive"), (Mailbox, "accept"), (Mailbox, "watch"), (Mailbox, "move"),
          (partial.Partial, "turn"), (partial.Partial, "_tell"), (partial.Partial, "_begin_round"),
          (Server, "_received")]


@on_ranks(3, 6)
def test_nothing_deadlocks_whoever_is_late(ranks):
    """Many short runs with pauses at random at every point of communication."""
    originals = [(owner, name, getattr(owner, name)) for owner, name in POINTS]
    random = np.random.default_rng([ranks.size, ranks.rank])
    for owner, name, original in originals:
        setattr(owner, name, sleepy(original, random))
    for number, words in enumerate(EVERY):
        progress = ("poll", "kernel", "thread", "none")[(ranks.size + number) % 4]
        run = Run(ranks, words, progress=progress).steps(2).steps(1, first=2)
        run.close()
        assert len(set(ranks.gather(run.net.weights_sha256()))) == 1, words
    for owner, name, original in originals:
        setattr(owner, name, original)


@on_ranks(1, 4)
def test_each_number_of_a_shared_counter_goes_to_one_rank(ranks):
    run = Run(ranks, "layerwise")
    numbers = SharedCounter(ranks, run.channel.engine)
    for _ in range(2):
        numbers.restart()
        mine = []
        while (number := numbers.next()[0]) < 50:
            mine.append(number)
        everyone = sum(ranks.gather(mine), [])
        assert sorted(everyone) == [*range(50)]
    numbers.close()
    run.close()


def test_a_straggler_computes_longer_by_its_factor(monkeypatch):
    now, rests = [0.0], []

    def computing(seconds):
        for each in seconds:
            now[0] += each
            yield each

    net = SimpleNamespace(forward=lambda batch: computing([1, 2]), backward=lambda: computing([4]), layers="its own")
    monkeypatch.setattr("mpilayer.training.slowed.time.perf_counter", lambda: now[0])
    slow = Slowed(net, 3.0, 0.0, 0, rests.append)
    assert [*slow.forward(None), *slow.backward()] == [1, 2, 4]
    assert rests == [2, 4, 0, 8, 0]
    assert slow.layers == "its own"
    shares = []
    jittery = Slowed(net, 1.0, 0.5, 1, shares.append)
    for _ in range(2000):
        list(jittery.forward(None))
    assert np.mean(shares[::3]) == pytest.approx(0.5, rel=0.1)
