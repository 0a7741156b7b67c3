"""The simulated step: small cases by hand, and what must hold for all."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpilayer.compression.buckets import Bucket
from mpilayer.schedules.step_model import Profile, predict

TIMES = st.lists(st.tuples(*[st.floats(0.01, 10)] * 3), min_size=1, max_size=10)


def step(layers, pieces=1):
    """Prediction for layers [(forward, backward, message seconds)] in forward order, each cut into pieces."""
    names = [f"l{number}" for number in range(len(layers))]
    profile = Profile({name: b for name, (_, b, _) in list(zip(names, layers, strict=True))[::-1]}, 0.0, 0.0,
                      {name: f for name, (f, _, _) in zip(names, layers, strict=True)})
    messages = [Bucket(name, 0, 0, (name,)) for name in names[::-1] for _ in range(pieces)]
    seconds = {name: m / pieces for name, (_, _, m) in zip(names, layers, strict=True)}
    return predict(messages, [SimpleNamespace(name=name) for name in names], profile, lambda m: seconds[m.name])


def test_one_layer_waits_for_its_message():
    found = step([(1.0, 2.0, 5.0)])
    assert found.seconds == pytest.approx(8.0)
    assert found.exposed == pytest.approx(5.0)


def test_a_large_late_layer_is_overtaken_by_what_is_read_first():
    """l1 (10 s of messages) is ready first, l0 is read first: l0 goes as soon as it is there."""
    found = step([(3.0, 4.0, 1.0), (1.0, 1.0, 10.0)], pieces=10)
    first = found.order.index(10)
    assert first == 5  # from 1 s on a second each; what is next is decided a message ahead
    assert found.seconds == pytest.approx(13.0)  # 1 s before the first message, 11 s of messages, 1 s of l1's forward


def test_nothing_is_exposed_where_messages_are_short():
    assert step([(1.0, 1.0, 1e-9)] * 5).exposed == pytest.approx(0, abs=1e-6)


@given(TIMES, st.integers(1, 5))
def test_a_step_is_never_shorter_than_computing_or_the_link_allow(layers, pieces):
    found = step(layers, pieces)
    compute = sum(f + b for f, b, _ in layers)
    link = layers[-1][1] + sum(m for _, _, m in layers)  # nothing can be sent before the last layer's backward
    assert found.seconds >= max(compute, link) - 1e-9
    assert found.exposed == pytest.approx(found.seconds - compute)
    assert sorted(found.order) == list(range(len(layers) * pieces))


@given(TIMES)
def test_a_step_is_never_longer_than_one_thing_after_the_other(layers):
    assert step(layers).seconds <= sum(map(sum, layers)) + 1e-9
