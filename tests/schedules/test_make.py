"""make_schedule from a plain script: no command line, no Trace, no net that is watched."""

import numpy as np
import pytest

import nets
from mpilayer import SCHEDULES, Batch, MomentumSGD, Schedule, UserError, make_schedule
from mpilayer.exchange import channel
from tests.ranks import on_ranks

UNMEASURED = {"bucket": 0, "chunk": None, "progress": "poll"}


def built():
    return nets.build("alexnet-mini", classes=10, shape=(8, 8, 1))


@on_ranks(2)
def test_every_schedule_runs_with_its_defaults(ranks):
    for name in SCHEDULES:
        net = built()
        start = net.weights.copy()
        schedule = make_schedule(name, net, ranks, MomentumSGD(net, 0.01), **UNMEASURED)
        for t in range(8):
            x, y = net.example(3, np.random.default_rng([t, ranks.rank]))
            schedule.step(t, Batch(x, y, 6))
        schedule.drain()
        schedule.channel.close()
        assert (net.weights != start).mean() > 0.1, name
        assert len(set(ranks.gather(net.weights_sha256()))) == 1, name
        assert sum(map(len, schedule.channel.trace.steps)) < 12 * 8 * len(net.layers), "events pile up"


@on_ranks(2)
def test_what_does_not_go_together_is_refused_before_anything_is_open(ranks):
    for name, optimizer, options, message in [
        ("local-sgd", {"clip": 1}, {}, "clip does not go with schedule local-sgd: the norm of a whole gradient"),
        ("gossip", {"clip": 1}, {}, "clip does not go with schedule gossip"),
        ("layerwise", {"delay_compensation": 0.1}, {}, "delay_compensation goes with schedule delayed or ps: nothing"),
        ("layerwise", {"momentum_correction": True}, {}, "momentum_correction goes with schedule delayed or ps"),
        ("rma", {}, {"wire": "topk"}, "wire topk does not go with schedule rma: MPI's one-sided sums"),
        ("delayed", {}, {"delai": 2}, "keyword argument 'delai' | expected one of bucket, chunk, delay, delay_warmup"),
        ("delayed", {}, {"delay": -1}, "delay -1 | expected a whole number, not negative, or auto"),
        ("layerwise", {}, {"apply": "never"}, "apply 'never' | expected lazy, ordered, completion, all"),
        ("local-sgd", {}, {"period": 0}, "period 0 | expected a positive whole number"),
        ("diloco", {}, {"outer_momentum": 1.0}, "outer_momentum 1.0 | 1.0: expected less than 1"),
    ]:
        net = built()
        with pytest.raises(UserError) as found:
            make_schedule(name, net, ranks, MomentumSGD(net, 0.01, **optimizer), **{**UNMEASURED, **options})
        assert str(found.value).startswith(message), found.value
        assert not channel.running()


class OwnPace(Schedule):
    """Ranks take steps as they come."""

    asynchronous = True

    def __init__(self, net, queue, optimizer):
        super().__init__(net, queue, optimizer)
        queue.open()

    def step(self, t, batch):
        """Forward only."""
        for _ in self.net.forward(batch):
            pass


@on_ranks(2)
def test_statistics_of_all_ranks_are_refused_where_ranks_go_at_their_own_pace(ranks):
    for kind in ("ps", "partial", "rma", OwnPace):
        net = built()
        schedule = make_schedule(kind, net, ranks, MomentumSGD(net, 0.01), **UNMEASURED)
        with pytest.raises(UserError, match=r"^total \| expected None: ranks do not"):
            schedule.step(0, Batch(*net.example(3, np.random.default_rng(0)), 6, total=ranks.total))
        ranks.meet()
        schedule.channel.abandon()


@on_ranks(1)
def test_a_class_instead_of_a_name_and_one_that_fails(ranks):
    class Broken(Schedule):
        def __init__(self, net, queue, optimizer):
            queue.open()
            raise ZeroDivisionError

    net = built()
    with pytest.raises(ZeroDivisionError):
        make_schedule(Broken, net, ranks, MomentumSGD(net, 0.01), **UNMEASURED)
    assert not channel.running()
    schedule = make_schedule(SCHEDULES["oneshot"], net, ranks, MomentumSGD(net, 0.01), **UNMEASURED)
    schedule.channel.close()
    with pytest.raises(UserError, match="is no schedule"):
        make_schedule(int, net, ranks, MomentumSGD(net, 0.01))
    with pytest.raises(NotImplementedError, match=r"Schedule has no step\(t, batch\)"):
        Schedule(net, None, None).step(0, None)


def test_a_warmup_also_ends_when_steps_begin_later():
    from mpilayer.schedules.delay_policy import AfterWarmup

    policy = AfterWarmup(2, 5)
    assert [policy.next(t, 0) for t in (3, 5, 7)] == [0, 2, 2]
