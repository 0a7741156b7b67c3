"""Simulated steps: small cases by hand, and what must hold for all."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpilayer.compression.buckets import Bucket
from mpilayer.model.profile import Profile
from mpilayer.model.programs import PROGRAMS, Work
from mpilayer.model.step import predict, spread
from mpilayer.model.wire import Wire
from mpilayer.mpi.link_model import LinkModel

TIMES = st.lists(st.tuples(*[st.floats(0.01, 10)] * 3), min_size=1, max_size=10)
SECOND = 4  # bytes of a message that takes one


def work(layers, pieces=1):
    """Of layers [(forward, backward, message seconds)] in forward order, each cut into pieces."""
    names = [f"l{number}" for number in range(len(layers))]
    profile = Profile({name: b for name, (_, b, _) in list(zip(names, layers, strict=True))[::-1]}, 0.0, 0.0,
                      {name: f for name, (f, _, _) in zip(names, layers, strict=True)})
    messages = [Bucket(name, 0, m / pieces, (name,)) for name, (_, _, m) in list(zip(names, layers, strict=True))[::-1]
                for _ in range(pieces)]
    return Work(profile, [SimpleNamespace(name=name) for name in names], messages)


def link(latency=0.0, busy=1.0, core=0.0, lanes=1, credit=0.0):
    """`busy` times as slow beside computing, of which `core` seconds are a core's for each that a message takes."""
    idle = LinkModel(latency, 1 / SECOND)
    return Wire(idle, LinkModel(*(busy * each for each in idle)), LinkModel(0.0, core / SECOND), credit, lanes)


def step(schedule, layers, pieces=1, wire=None, **how):
    return predict(schedule, work(layers, pieces), wire or link(), **how)


@pytest.mark.parametrize("schedule", ["oneshot", "layerwise", "planned", "split", "ps", "gossip"])
def test_one_layer_waits_for_its_message(schedule):
    found = step(schedule, [(1.0, 2.0, 5.0)])
    assert found.seconds == pytest.approx(8.0)
    assert found.exposed == pytest.approx(5.0)


def test_one_shot_hides_nothing():
    assert step("oneshot", [(1, 2, 3), (2, 2, 2)]).seconds == pytest.approx(12)


def test_layerwise_hides_what_comes_first_behind_the_rest_of_backward():
    """l1 is ready at 0, travels till 4 while l0 computes backward till 2; then l0 travels till 5."""
    assert step("layerwise", [(1, 2, 1), (1, 2, 4)]).seconds == pytest.approx(1 + 1 + 2 + 5)


def test_a_large_late_layer_is_overtaken_by_what_is_read_first():
    """l1 (10 s of messages) is ready first, l0 is read first: l0 goes as soon as it is there."""
    found = step("planned", [(3.0, 4.0, 1.0), (1.0, 1.0, 10.0)], pieces=10)
    first = found.order.index(10)
    assert first == 4  # from 0 s of l1 on a second each, l0 is there after four
    assert found.seconds == pytest.approx(1 + 11 + 1)  # l1's backward, all messages, l1's forward
    assert step("planned", [(3, 4, 1), (1, 1, 10)], pieces=10, wire=link(lanes=3)).order.index(10) == 6, "begun before"


def test_halves_are_gathered_in_the_order_of_forward():
    found = step("split", [(0, 1, 2), (1, 1, 2)])
    assert found.order == [0, 1, 2, 3]
    assert found.seconds == pytest.approx(1 + 4 + 1)  # l1's half is sent while l0 computes; l0's gather goes first


@pytest.mark.parametrize(("delay", "seconds"), [(0, 12), (1, 10), (2, 10)])
def test_a_delay_hides_all_that_the_link_can_carry(delay, seconds):
    assert step("delayed", [(1, 1, 10)], delay=delay).seconds == pytest.approx(seconds)
    assert step("delayed", [(6, 6, 10)], delay=1).seconds == pytest.approx(12)


def test_every_so_many_steps_weights_are_averaged():
    assert step("local-sgd", [(1, 1, 4)], period=4).seconds == pytest.approx((4 * 2 + 4) / 4)
    assert step("local-sgd", [(1, 1, 4)], period=4, delay=2).seconds == pytest.approx(2)


def test_latencies_overlap_in_lanes_but_that_of_the_last_message():
    wire = link(latency=2.0, lanes=2)
    assert step("layerwise", [(0.0, 0.0, 1.0)], wire=wire).seconds == pytest.approx(3)
    assert step("layerwise", [(0.0, 0.0, 4.0)], pieces=4, wire=wire).seconds == pytest.approx(4 * 2 + 1)


def test_halves_share_a_sum_s_latency_and_those_from_rank_to_rank_have_their_own():
    """2 s of a sum are 1 s of each half; messages to a server and back take 0.5 s each, all at the same time."""
    wire = link(latency=2.0)
    assert step("split", [(0.0, 0.0, 2.0)], wire=wire).seconds == pytest.approx(2 * 1 + 2)
    layers = [(0.0, 0.0, 0.0)] * 4
    assert step("ps", layers, wire=wire._replace(direct=0.5)).seconds == pytest.approx(2 * 0.5)


def test_messages_slow_down_computing_and_are_slowed_down_by_it():
    """l1's message of 3 s takes 9 beside computing, which goes on at half its speed then: 4 s of l0's backward are 8 s,
    after which a ninth of the message is left; of 8 s, all of it is hidden.
    """
    wire = link(busy=3.0, core=1.5)
    assert step("layerwise", [(0.0, 4.0, 0.0), (0.0, 0.0, 3.0)], wire=wire).seconds == pytest.approx(8 + 1 / 3)
    assert step("layerwise", [(0.0, 8.0, 0.0), (0.0, 0.0, 3.0)], wire=wire).seconds == pytest.approx(8 + 4.5)


def test_what_passes_at_once_after_a_pause_is_not_waited_for():
    wire = link(credit=2 * SECOND)
    assert step("oneshot", [(1.0, 2.0, 5.0)], wire=wire).seconds == pytest.approx(3 + 3)
    assert step("oneshot", [(0.5, 0.5, 5.0)], wire=wire).seconds == pytest.approx(1 + 4), "of a pause of 1 s"
    assert step("delayed", [(1.0, 1.0, 5.0)], delay=2, wire=wire).seconds == pytest.approx(5, rel=0.05)


def test_the_slowest_rank_sets_the_pace_of_a_sum():
    found = step("oneshot", [(1, 1, 1)], factors=[[3.0] * 8, [1.0] * 8])
    assert found.seconds == pytest.approx(3 * 2 + 1)
    assert found.exposed == pytest.approx(1)


def test_jitter_costs_more_the_more_ranks_there_are_and_less_with_a_delay():
    def seconds(schedule, ranks, **how):
        factors = spread(ranks, 1.0, 0.1, 30, np.random.default_rng(0))
        return step(schedule, [(1, 1, 0.5)], factors=factors, **how).seconds

    few, many, late = seconds("oneshot", 2), seconds("oneshot", 1000), seconds("delayed", 1000, delay=2)
    assert 2.5 < few < many
    assert late < many - 0.4


@given(TIMES, st.integers(1, 5), st.sampled_from(sorted(PROGRAMS)), st.integers(0, 2), st.integers(1, 3))
def test_a_step_is_between_what_the_parts_allow_and_one_thing_after_the_other(layers, pieces, schedule, delay, period):
    found = step(schedule, layers, pieces, delay=delay * (schedule == "delayed"), period=period)
    compute, communication = sum(f + b for f, b, _ in layers), sum(m for _, _, m in layers)
    often = period if schedule in ("local-sgd", "diloco", "elastic") else 1
    link_bound = 0 if delay and schedule == "delayed" else communication / often  # it may take long to fill
    assert max(compute, link_bound) - 1e-9 <= found.seconds <= compute + communication / often + 1e-9
    assert found.exposed == pytest.approx(found.seconds - compute, abs=1e-9)
    numbers = itertools.chain(range(len(layers) * pieces))
    if schedule in ("layerwise", "planned", "delayed", "gossip"):
        assert sorted(found.order) == list(numbers)


@given(TIMES, st.integers(1, 5))
def test_more_freedom_is_never_slower(layers, pieces):
    """What may wait later waits no longer."""
    order = [step("oneshot", layers, pieces), step("layerwise", layers, pieces),
             *(step("delayed", layers, pieces, delay=delay) for delay in (1, 2))]
    for earlier, later in itertools.pairwise(order):
        assert later.seconds <= earlier.seconds + 1e-9
