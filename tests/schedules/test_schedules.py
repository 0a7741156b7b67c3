"""Every schedule against a serial loop of the rule it was published as."""

from types import SimpleNamespace

import numpy as np
import pytest

import nets
from mpilayer.base.tracing import Trace
from mpilayer.data import open_data, share
from mpilayer.exchange.gradient_queue import GradientQueue
from mpilayer.exchange.settings import Settings
from mpilayer.schedules.delay_policy import Adaptive, ByLayer
from mpilayer.schedules.layerwise import APPLY
from mpilayer.schedules.make import make_schedule
from mpilayer.training.batch import Batch
from mpilayer.training.optim import AdamW, MomentumSGD
from mpilayer.training.rates import learning_rate
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
    """w after the published rule on one process: g(t) is taken at weights that have seen g(0) ... g(t-1-delay).

    A list of delays, one for each step, drains where it changes.
    """
    net, waiting = build(), []
    delays = [delay] * steps if isinstance(delay, int) else delay
    velocity = np.zeros_like(net.weights, dtype=np.float64)

    def apply(step, gradient):
        nonlocal velocity
        velocity = MOMENTUM * velocity + rate(step) * (gradient + DECAY * net.weights.astype(np.float64))
        net.weights[:] = net.weights - velocity

    for t in range(steps):
        if len(waiting) > delays[t]:
            apply(*waiting.pop(0))
        x, y = samples(t)
        for _ in (*net.forward(Batch(x, y, SIZE, seed=t)), *net.backward()):
            pass
        waiting.append((t, net.gradients[0].astype(np.float64)))
        while waiting and (t in drains or t == steps - 1 or delays[t] != delays[t + 1]):
            apply(*waiting.pop(0))
    return net


def made(ranks, name, net, optimizer, settings, **options):
    """A schedule that is timed; the settings measure nothing."""
    trace = Trace()
    return make_schedule(name, net, ranks, optimizer, trace=trace,
                         settings=Settings(**{"bucket": 0, **settings}), **options)


def parallel(ranks, name, options=None, steps=STEPS, drains=(), **settings):
    """The same through the schedule, each rank on its share."""
    net = build()
    optimizer = MomentumSGD(net, rate, momentum=MOMENTUM, weight_decay=DECAY)
    chosen = made(ranks, name, net, optimizer, settings, **options or {})
    for t in range(steps):
        x, y = samples(t)
        mine = share(SIZE, ranks.rank, ranks.size)
        chosen.step(t, Batch(x[mine], y[mine], SIZE, mine.start, seed=t))
        if t in drains:
            chosen.drain()
    chosen.drain()
    assert chosen.channel.quiet
    chosen.channel.close()
    return net


def distance(net, other):
    """How far apart two nets are, as a share of how far the first has moved."""
    moved = np.abs(net.weights - build().weights).max()
    return np.abs(net.weights - other.weights).max() / moved


@on_ranks(2, 5)
def test_what_changes_no_number_equals_one_process(ranks):
    oracle = serial(0)
    for name, settings in [("oneshot", {"progress": "none"}), ("layerwise", {"progress": "none"}),
                           ("layerwise", {"progress": "kernel", "chunk": 4096}), ("layerwise", {"bucket": 100_000}),
                           ("planned", {"progress": "kernel", "chunk": 4096}), ("planned", {"progress": "thread"}),
                           ("planned", {"bucket": None})]:
        assert distance(oracle, parallel(ranks, name, **settings)) < ROUNDING, (name, settings)
    none = parallel(ranks, "delayed", {"delay": 0}, progress="thread", chunk=10_000)
    assert distance(oracle, none) < ROUNDING


@on_ranks(2, 3)
def test_every_policy_applies_every_gradient_once(ranks):
    oracle = serial(0)
    for apply in APPLY:
        assert distance(oracle, parallel(ranks, "layerwise", {"apply": apply}, chunk=8192)) < ROUNDING, apply


@on_ranks(2)
def test_two_ranks_get_the_bits_of_oneshot_from_every_exact_schedule(ranks):
    hashes = {parallel(ranks, name, options).weights_sha256() for name, options in (
        ("oneshot", {}), ("layerwise", {}), ("planned", {}), ("delayed", {"delay": 0}), ("auto", {}))}
    assert len(hashes) == 1
    assert len(set(ranks.gather(hashes.pop()))) == 1


@on_ranks(3, 4)
def test_in_rank_order_the_bits_do_not_depend_on_schedule_messages_or_progress(ranks):
    ordered = {"reduction": "ordered"}
    hashes = {parallel(ranks, "oneshot", **ordered).weights_sha256(),
              parallel(ranks, "layerwise", bucket=50_000, **ordered).weights_sha256(),
              parallel(ranks, "planned", chunk=4096, progress="kernel", **ordered).weights_sha256(),
              parallel(ranks, "planned", chunk=1000, bucket=None, progress="thread", **ordered).weights_sha256()}
    assert len(hashes) == 1
    assert len(set(ranks.gather(hashes.pop()))) == 1
    assert distance(serial(0), parallel(ranks, "oneshot", **ordered)) < ROUNDING


@on_ranks(2, 3)
def test_bfloat16_rounds_what_travels_and_nothing_else(ranks):
    oracle = serial(0)
    for reduction in ("native", "ordered"):
        off = distance(oracle, parallel(ranks, "planned", wire="bfloat16", reduction=reduction))
        assert ROUNDING < off < 0.1, "a bfloat16 is off by 1/256 at most; nine steps and rectifiers make that more"


@on_ranks(2)
def test_feedback_sends_later_what_rounding_loses(ranks):
    """Twenty times the same gradient: the sums that arrive add up to twenty times its sum, to a single rounding."""
    lost = {}
    for feedback in (False, True):
        net, steps = build(), 20
        queue = GradientQueue(ranks, net, settings=Settings(wire="bfloat16", wire_options={"error_feedback": feedback}))
        gradients = np.random.default_rng(5).standard_normal((ranks.size, net.weights.size), np.float32)
        arrived = np.zeros(net.weights.size)
        for step in range(steps):
            net.gradients[0][:] = gradients[ranks.rank]
            for layer in net.backward_layers:
                queue.post(step, layer)
            for layer in net.layers:
                for _ in queue.settle(layer, step):
                    pass
            arrived += net.gradients[0]
        kept = np.concatenate([np.arange(*net.offsets[layer.name]) for layer in net.layers])
        lost[feedback] = np.abs(arrived - steps * gradients.sum(0, dtype=np.float64))[kept].mean()
    assert lost[True] < lost[False] / 2


@on_ranks(2)
def test_an_adaptive_delay_applies_every_gradient_once_at_the_weights_it_says(ranks):
    """The delay is changed at given steps, with what is in flight applied first: drains, as in the serial loop."""
    net = build()
    optimizer = MomentumSGD(net, rate, momentum=MOMENTUM, weight_decay=DECAY)
    chosen = made(ranks, "delayed", net, optimizer, {}, delay="auto")
    delays = [0, 0, 1, 1, 1, 2, 2, 2, 2]
    for t, delay in enumerate(delays):
        if delay != chosen.delay:
            chosen.change(delay)
        x, y = samples(t)
        mine = share(SIZE, ranks.rank, ranks.size)
        chosen.step(t, Batch(x[mine], y[mine], SIZE, mine.start, seed=t))
    chosen.drain()
    assert distance(serial(delays), net) < ROUNDING
    assert distance(serial(0), net) > 100 * ROUNDING


@on_ranks(2)
def test_the_delay_follows_what_is_exposed(ranks):
    """Shares of the time as if measured, and the delay that must follow."""
    net = build()
    chosen = made(ranks, "delayed", net, MomentumSGD(net, rate), {}, delay="auto")
    hidden, visible, full = ({"exposed": e, "busy": b} for e, b in ((0.0, 0.5), (0.2, 0.5), (0.2, 0.99)))
    steps = [(visible, 1), (visible, 2), (full, 2), (full, 2), (hidden, 2), (hidden, 1),  # four looks, then a try
             (visible, 2), *[(hidden, 2)] * 7, (hidden, 1), (hidden, 1), (visible, 2), (visible, 3), (visible, 3)]
    for number, (shares, delay) in enumerate(steps):
        chosen.policy.review(chosen, shares)
        assert chosen.delay == delay, number


@on_ranks(2)
def test_ranks_add_up_other_numbers_while_a_thread_moves_messages(ranks):
    """MPI is initialised for one thread at a time; two at once hang or crash sooner or later."""
    net = build()
    queue = GradientQueue(ranks, net, settings=Settings(bucket=0, chunk=2048, progress="thread"))
    for step in range(300):
        net.gradients[0][:] = 1
        for layer in net.backward_layers:
            queue.post(step, layer)
            assert queue.total(np.array([1.0, step])).tolist() == [ranks.size, ranks.size * step]
        for layer in net.layers:
            for _, gradient in queue.settle(layer, step):
                assert (gradient == ranks.size).all()
    queue.close()


@on_ranks(1, 3)
def test_delayed_equals_the_published_rule(ranks):
    for delay in (1, 2, 3, 5):
        oracle = serial(delay)
        assert distance(oracle, parallel(ranks, "delayed", {"delay": delay})) < ROUNDING, delay
        assert distance(oracle, serial(delay - 1)) > 100 * ROUNDING, "the test could not tell delays apart"


@on_ranks(2)
def test_a_drain_applies_what_is_in_flight_and_starts_anew(ranks):
    for drains in [(3,), (0, 4, 5)]:
        oracle = serial(2, drains=drains)
        assert distance(oracle, parallel(ranks, "delayed", {"delay": 2}, drains=drains)) < ROUNDING, drains
        assert distance(oracle, serial(2)) > 100 * ROUNDING, "the drain made no difference"


@on_ranks(2)
def test_a_beginning_without_delay(ranks):
    oracle = serial([0, 0, 0, 0, 2, 2, 2, 2, 2])
    assert distance(oracle, parallel(ranks, "delayed", {"delay": 2, "delay_warmup": 4})) < ROUNDING
    assert distance(oracle, serial(2)) > 100 * ROUNDING
    assert distance(serial(0), parallel(ranks, "delayed", {"delay": 2, "delay_warmup": 99})) < ROUNDING


@on_ranks(2)
def test_fewer_steps_than_the_delay(ranks):
    assert distance(serial(3, steps=2), parallel(ranks, "delayed", {"delay": 3}, steps=2)) < ROUNDING


@on_ranks(2)
def test_a_delay_of_k_keeps_k_plus_one_gradient_buffers(ranks):
    assert [len(parallel(ranks, "delayed", {"delay": k}, steps=6).gradients) for k in (0, 1, 3)] == [1, 2, 4]


@on_ranks(2)
def test_posting_memory_in_flight_is_refused(ranks):
    net = build()
    queue = GradientQueue(ranks, net, settings=Settings(bucket=0))
    for layer in net.backward_layers:
        queue.post(0, layer)
    with pytest.raises(RuntimeError, match=r"step 1 \| conv1 \| .*k \+ 1 gradient buffers"):
        queue.post(1, net.layers[0])


def test_learning_rate_policies_follow_caffe():
    step = learning_rate(0.1, 100, "step", lr_step=10, lr_gamma=0.5)
    assert [step(t) for t in (0, 9, 10, 25)] == [0.1, 0.1, 0.05, 0.025]
    assert learning_rate(0.1, 100, "poly", lr_power=2.0)(50) == pytest.approx(0.1 * 0.25)
    warm = learning_rate(0.1, 100, warmup=4)
    assert [warm(t) for t in (0, 1, 3, 4, 99)] == pytest.approx([0.025, 0.05, 0.1, 0.1, 0.1])


# Other nets and optimisers, the serial loop in plain NumPy


def net_of(kind):
    shape = (12,) if kind == "transformer-mini" else (8, 8, 1)
    return nets.build(kind, classes=10, shape=shape, seed=3)


def batch_of(net, t):
    return net.example(SIZE, np.random.default_rng(t))


def in_one_process(kind, rule, steps=STEPS):
    """The net after new weights rule(w, g, t) at every step, on whole batches."""
    net = net_of(kind)
    for t in range(steps):
        for _ in (*net.forward(Batch(*batch_of(net, t), SIZE, seed=t)), *net.backward()):
            pass
        net.weights[:] = rule(net.weights.astype(np.float64), net.gradients[0].astype(np.float64), t)
    return net


def on_all_ranks(ranks, kind, name, make_optimizer, options=None, statistics=None, steps=STEPS, **settings):
    net = net_of(kind)
    chosen = made(ranks, name, net, make_optimizer(net), settings, **options or {})
    for t in range(steps):
        (x, y), mine = batch_of(net, t), share(SIZE, ranks.rank, ranks.size)
        chosen.step(t, Batch(x[mine], y[mine], SIZE, mine.start, seed=t, total=statistics))
    chosen.drain()
    chosen.channel.close()
    return net


def apart(net, other, kind):
    """As a share of how far the first has moved."""
    return np.abs(net.weights - other.weights).max() / np.abs(net.weights - net_of(kind).weights).max()


def sgd(net, **more):
    return MomentumSGD(net, rate, momentum=0.0, weight_decay=0.0, **more)


EXACT = [("oneshot", {}), ("layerwise", {"chunk": 4096}), ("planned", {"progress": "kernel"}),
         ("delayed", {"options": {"delay": 0}})]


@on_ranks(1, 3)
def test_a_transformer_equals_one_process_under_every_exact_schedule(ranks):
    oracle = in_one_process("transformer-mini", lambda w, g, t: w - rate(t) * g)
    for name, settings in EXACT:
        assert apart(oracle, on_all_ranks(ranks, "transformer-mini", name, sgd, **settings), "transformer-mini") < 1e-4


@on_ranks(2, 3)
def test_statistics_of_all_ranks_make_a_resnet_equal_one_process(ranks):
    """A few steps: batch normalization makes much of every rounding."""
    oracle = in_one_process("resnet-mini", lambda w, g, t: w - rate(t) * g, steps=3)
    for name, settings in EXACT:
        net = on_all_ranks(ranks, "resnet-mini", name, sgd, statistics=ranks.total, steps=3, **settings)
        assert apart(oracle, net, "resnet-mini") < 1e-3, name
    local = on_all_ranks(ranks, "resnet-mini", "oneshot", sgd, steps=3)
    assert apart(oracle, local, "resnet-mini") > 1e-2, "the test could not tell statistics apart"


@on_ranks(2)
def test_statistics_of_each_rank_are_those_of_its_samples(ranks):
    """The serial loop: forward and backward of each rank's part alone, gradients added."""
    net = net_of("resnet-mini")
    for t in range(3):
        gradient, (x, y) = 0, batch_of(net, t)
        for rank in range(ranks.size):
            mine = share(SIZE, rank, ranks.size)
            for _ in (*net.forward(Batch(x[mine], y[mine], SIZE, mine.start, seed=t)), *net.backward()):
                pass
            gradient = gradient + net.gradients[0].astype(np.float64)
        net.weights[:] = net.weights - rate(t) * gradient
    for name, settings in EXACT:
        assert apart(net, on_all_ranks(ranks, "resnet-mini", name, sgd, steps=3, **settings), "resnet-mini") < 1e-3


LIMIT = 20


def clipped(limit):
    norms = []

    def rule(w, g, t):
        norms.append(np.linalg.norm(g))
        return w - rate(t) * g * min(1, limit / norms[-1])

    return rule, norms


@on_ranks(1, 3)
def test_a_gradient_is_clipped_as_a_whole_under_every_schedule(ranks):
    rule, norms = clipped(LIMIT)
    oracle = in_one_process("alexnet-mini", rule)
    assert min(norms) < LIMIT < max(norms), "the test would not see clipping, or its absence"

    def clipping(net):
        return sgd(net, clip=LIMIT)

    for name, settings in [*EXACT, ("layerwise", {"reduction": "ordered"}), ("planned", {"progress": "thread"})]:
        assert apart(oracle, on_all_ranks(ranks, "alexnet-mini", name, clipping, **settings), "alexnet-mini") < 1e-4


@on_ranks(2)
def test_late_gradients_are_clipped_by_the_norm_of_their_own_step(ranks):
    waiting = []
    rule, norms = clipped(LIMIT)

    def late(w, g, t):
        waiting.append((g, t))
        return rule(w, *waiting.pop(0)) if len(waiting) > 2 else w

    oracle = in_one_process("alexnet-mini", late)
    for g, t in waiting:
        oracle.weights[:] = rule(oracle.weights.astype(np.float64), g, t)
    assert min(norms) < LIMIT < max(norms)
    net = on_all_ranks(ranks, "alexnet-mini", "delayed", lambda net: sgd(net, clip=LIMIT),
                       {"delay": 2})
    assert apart(oracle, net, "alexnet-mini") < 1e-4


@on_ranks(2)
def test_adamw_equals_one_process(ranks):
    moments = [0.0, 0.0]

    def rule(w, g, t):
        moments[:] = 0.9 * moments[0] + 0.1 * g, 0.99 * moments[1] + 0.01 * g**2
        first, second = moments[0] / (1 - 0.9 ** (t + 1)), moments[1] / (1 - 0.99 ** (t + 1))
        return w - rate(t) * (first / (np.sqrt(second) + 1e-2) + 0.1 * w)

    def adamw(net):
        return AdamW(net, rate, momentum=0.9, beta2=0.99, epsilon=1e-2, weight_decay=0.1)

    oracle = in_one_process("alexnet-mini", rule)
    for name, settings in EXACT:
        assert apart(oracle, on_all_ranks(ranks, "alexnet-mini", name, adamw, **settings), "alexnet-mini") < 1e-4


@on_ranks(2)
def test_momentum_correction_brings_along_what_was_missed(ranks):
    """w after k late steps of v = m v + u is moved by m^k v + (1 + m + ... + m^(k-1)) u."""
    delay, state = 2, {"v": 0.0, "waiting": []}

    def apply(w, g, t):
        u = rate(t) * g
        state["v"] = 0.8 * state["v"] + u
        return w - 0.8**delay * state["v"] - sum(0.8**i for i in range(delay)) * u

    def rule(w, g, t):
        state["waiting"].append((g, t))
        return apply(w, *state["waiting"].pop(0)) if len(state["waiting"]) > delay else w

    oracle = in_one_process("alexnet-mini", rule)
    for g, t in state["waiting"]:
        oracle.weights[:] = apply(oracle.weights.astype(np.float64), g, t)

    def corrected(net):
        return MomentumSGD(net, rate, momentum=0.8, weight_decay=0.0, momentum_correction=True)

    net = on_all_ranks(ranks, "alexnet-mini", "delayed", corrected, {"delay": delay})
    assert apart(oracle, net, "alexnet-mini") < 1e-4


def test_the_cosine_ends_at_nothing():
    found = learning_rate(0.2, 100, "cosine")
    assert [found(0), found(50), found(100)] == pytest.approx([0.2, 0.1, 0])


@on_ranks(2)
def test_split_counts_all_messages_that_a_thread_and_python_post_at_the_same_time(ranks):
    """Thousands of messages, of which Python posts the first halves and the thread the second ones."""
    ordered = parallel(ranks, "oneshot", reduction="ordered", steps=20).weights_sha256()
    assert parallel(ranks, "split", progress="thread", chunk=1000, steps=20).weights_sha256() == ordered


class Clock:
    """A queue's clock as an adaptive delay reads it, on one rank."""

    def __init__(self):
        self.time = self.exposed = 0.0
        self.trace, self.engine = self, self

    def now(self):
        return self.time

    def busy(self):
        return self.time / 2

    def total(self, values):
        return values

    bcast = total


@pytest.mark.parametrize("pause", [0, 3])
def test_an_adaptive_delay_does_not_take_an_evaluation_for_training_time(pause):
    """Steps of a second, of which 0.44 are waiting; every seventh is followed by a drain and an evaluation."""
    queue, seen = Clock(), []
    policy, schedule = Adaptive(), SimpleNamespace(channel=queue)
    policy.review = lambda schedule, share: seen.append(share["exposed"])
    for step in range(60):
        policy.before_step(schedule)
        queue.time, queue.exposed = queue.time + 1, queue.exposed + 0.44
        policy.after_step(schedule)
        if step % 7 == 6:
            policy.before_drain(schedule)
            queue.time += pause
    assert seen == pytest.approx([0.44, 0.44])


def reviewed(policy, queue, spend, steps=20):
    """What the policy says after so many steps of a second, in each of which a layer is waited for spend(name) long."""
    said, schedule = [], SimpleNamespace(channel=queue)
    queue.say = said.append
    for t in range(1, steps + 1):
        policy.before_step(schedule)
        for name in policy.lags:
            with policy.waiting(schedule, SimpleNamespace(name=name), t):
                queue.exposed += spend(name)
        queue.time += 1
        policy.after_step(schedule)
    return said


def test_a_layer_is_late_only_as_long_as_it_must_be():
    queue, layers = Clock(), [SimpleNamespace(name=name, w=np.zeros(size)) for name, size in (("a", 3), ("b", 5))]
    policy, late = ByLayer(layers), set()
    queue.has_arrived = lambda name, step: name not in late
    assert not reviewed(policy, queue, lambda name: 0.5), "in the first window ranks gather"
    assert reviewed(policy, queue, lambda name: 0.02 * (name == "b")) == ["a step late: b; 5 of 8 parameters"]
    assert [policy.lag(layer, 1) for layer in layers] == [0, 1]
    late.add("b")
    assert not reviewed(policy, queue, lambda name: 0.0), "it is still needed"
    late.clear()
    assert reviewed(policy, queue, lambda name: 0.009) == ["a step late: no layer; 0 of 8 parameters"]
    assert reviewed(policy, queue, lambda name: 0.02 * (name == "b")) == ["a step late: b; 5 of 8 parameters"]
    assert not reviewed(policy, queue, lambda name: 0.0), "it came back before, so two windows must say so"
    assert reviewed(policy, queue, lambda name: 0.0) == ["a step late: no layer; 0 of 8 parameters"]


@on_ranks(2)
def test_layers_that_are_late_see_every_gradient_once(ranks):
    """Some layers late, changing now and then: against a loop in one process that applies what is due."""
    net = build()
    names = [layer.name for layer in net.layers]
    lags = [{name: (t // 3 + number) % 2 for number, name in enumerate(names)} for t in range(STEPS)]
    waiting = {name: [] for name in names}
    for t in range(STEPS):
        for layer in net.layers:
            while waiting[layer.name] and waiting[layer.name][0][0] <= t - 1 - lags[t][layer.name]:
                step, g = waiting[layer.name].pop(0)
                layer.w[:] = layer.w - rate(step) * g
        x, y = samples(t)
        for _ in (*net.forward(Batch(x, y, SIZE, seed=t)), *net.backward()):
            pass
        for layer in net.layers:
            waiting[layer.name].append((t, layer.g.astype(np.float64)))
    for layer in net.layers:
        for step, g in waiting[layer.name]:
            layer.w[:] = layer.w - rate(step) * g
    other = build()
    chosen = made(ranks, "delayed", other, sgd(other), {}, delay="layers")
    for t in range(STEPS):
        chosen.policy.lags.update(lags[t])
        (x, y), mine = samples(t), share(SIZE, ranks.rank, ranks.size)
        chosen.step(t, Batch(x[mine], y[mine], SIZE, mine.start, seed=t))
    chosen.drain()
    chosen.channel.close()
    assert distance(net, other) < ROUNDING


@on_ranks(2)
def test_the_first_rank_decides_on_the_delay(ranks):
    net = build()
    chosen = made(ranks, "delayed", net, MomentumSGD(net, rate), {}, delay="auto")
    chosen.channel.total = lambda values: values + [0, 1e-7 * ranks.rank, 0]  # sums differ in the last bits
    shares = chosen.policy.shares(chosen.channel, np.array([10.0, 4.4, 5.0]))
    assert ranks.gather(shares) == [shares] * 2
    assert shares["exposed"] == pytest.approx(0.44)
