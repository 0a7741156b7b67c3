import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from mpilayer.base.tracing import Trace
from mpilayer.training.display import slowest_said
from mpilayer.training.meter import FIELDS, Meter, Reading, Stragglers, slowest
from tests.ranks import on_ranks


class Channel:
    """As much of one as a Meter needs."""

    def __init__(self, ranks):
        self.trace, self.engine, self.ranks = Trace(), SimpleNamespace(held=contextlib.nullcontext), ranks

    def wait(self, arrived, what):
        self.ranks.until(arrived, what)


def schedule(ranks, asynchronous=False):
    net = SimpleNamespace(layers=[SimpleNamespace(name="a"), SimpleNamespace(name="b")])
    return SimpleNamespace(channel=Channel(ranks), net=net, asynchronous=asynchronous, staleness=None)


def measured(ranks, steps, every=3, **of_schedule):
    """(Meter, its readings) after so many steps in which rank r computed 1 + r seconds in `a`, and waited for `b`."""
    readings = []
    made = schedule(ranks, **of_schedule)
    meter = Meter(ranks, made, ranks.size, [readings.append], every)
    meter.begin()
    for step in range(steps):
        meter.trace.count([], "compute", "forward a", 0.0, 1.0 + ranks.rank)
        meter.trace.count([], "exposed", "wait b", 0.0, 0.5)
        meter.after_step(step + 1, 4, 0.25)
    return meter, readings


@on_ranks(1, 3)
def test_the_first_rank_hears_of_all_after_every_so_many_steps_and_at_the_end_of_an_epoch(ranks):
    meter, readings = measured(ranks, 7)
    meter.after_epoch(7, 7.0)
    if ranks.rank > 0:
        assert readings == []
    else:
        assert [each.step for each in readings] == [3, 6, 7]
        assert [len(each.durations) for each in readings] == [3, 3, 1]
        for each, steps in zip(readings, (3, 3, 1), strict=True):
            assert each.of("steps").tolist() == [steps] * ranks.size
            assert each.of("samples").tolist() == [4 * steps] * ranks.size
            assert each.of("loss").tolist() == [0.25 * steps] * ranks.size
            np.testing.assert_allclose(each.of("compute"), [steps * (1 + rank) for rank in range(ranks.size)])
            np.testing.assert_allclose(each.of("exposed"), 0.5 * steps)
            assert each.of("seconds")[0] == pytest.approx(each.durations.sum())
    meter.close()


@on_ranks(2)
def test_an_epoch_that_ends_with_a_reading_has_no_other_of_no_steps(ranks):
    meter, readings = measured(ranks, 6)
    meter.after_epoch(6, 6.0)
    assert [each.step for each in readings] == ([3, 6] if ranks.rank == 0 else [])
    meter.close()


@on_ranks(3)
def test_asynchronous_ranks_make_as_many_steps_as_they_can_and_are_compared_after_an_epoch(ranks):
    meter, readings = measured(ranks, 4 + ranks.rank, every=2, asynchronous=True)
    assert readings == []
    meter.after_epoch(9, 1.0)
    if ranks.rank == 0:
        assert readings[0].of("steps").tolist() == [4, 5, 6]
    meter.close()


@on_ranks(1, 3)
def test_at_the_end_all_know_which_is_slowest_and_in_which_layers(ranks):
    meter, _ = measured(ranks, 2)
    meter.trace.seconds["compute"] = 2.0 * (1 + ranks.rank)
    meter.after_epoch(2, 9.0)
    found, last = meter.end(), ranks.size - 1
    assert [row["rank"] for row in found["ranks"]] == list(range(ranks.size))
    assert found["ranks"][last]["seconds"]["compute"] == 2.0 * ranks.size
    assert found["ranks"][last]["seconds"]["total"] == 9.0
    assert found["layers"] == {"forward a": {"mean": pytest.approx((1 + ranks.size) / 2), "slowest": ranks.size},
                               "wait b": {"mean": 0.5, "slowest": 0.5}}
    if ranks.size == 1:
        assert found["slowest"] is None
    else:
        assert found["slowest"]["rank"] == 2
        assert found["slowest"]["times"] == pytest.approx(3 / 1.5)
    meter.close()


@pytest.mark.parametrize(("steps", "samples", "seconds", "expected"), [
    ([5, 5, 5], [40, 40, 40], [1.0, 1.0, 3.0], (2, 3.0)),
    ([5, 5, 5], [5, 10, 10], [1.0, 2.0, 2.0], (1, 1.0)),  # as many seconds a sample as the one with fewer
    ([5, 5, 5], [5, 10, 10], [2.0, 2.0, 2.0], (0, 1.0)),  # as many a step
    ([4, 8], [4, 8], [8.0, 8.0], (0, 2.0)),  # of a schedule in which who is free takes the next part
    ([5], [5], [1.0], None),
])
def test_slowest(steps, samples, seconds, expected):
    found = slowest(*map(np.array, (steps, samples, seconds)))
    assert found == expected or found[1] == pytest.approx(expected[1])
    assert found is None or expected[1] == 1.0 or found[0] == expected[0]


def reading(*compute):
    table = np.zeros((len(compute), len(FIELDS)))
    table[:, 0], table[:, 1], table[:, FIELDS.index("compute")] = 10, 10, compute
    return Reading(10, table, np.zeros(10), None)


def test_who_is_steadily_slower_is_named_once():
    said = []
    heard = Stragglers(["a", "b", "c"], said.append)
    for compute in ((1, 1, 2), (1, 1, 2), (1, 2, 1), (1, 1, 2), (1, 1, 1.1), (1, 1, 3), (1, 1, 2)):
        heard(reading(*compute))
    assert said == []
    for _ in range(5):
        heard(reading(1, 1, 2))
    assert said == ["rank 2 (c) computes 2.00 times as long as the median of the others, for the last 30 steps"]
    for _ in range(3):
        heard(reading(2, 1, 1))
    assert len(said) == 2


def test_what_interrupts_a_layer_is_not_counted_as_its_own():
    trace, clock = Trace(), iter(np.arange(0.0, 100.0))
    trace.now = lambda: next(clock)
    begin = trace.moment()  # 0
    with trace.interrupted("wait statistics"):  # from 1 to 4, two looks at the clock within
        pass
    trace.add("compute", "forward a", begin)  # 5
    assert trace.seconds["compute"] == trace.spent["compute"]["forward a"] == 5 - 3
    assert trace.seconds["exposed"] == trace.spent["exposed"]["wait statistics"] == 1
    assert trace.exposed == 0


def test_the_slowest_is_said_in_words():
    layers = {"forward a": {"mean": 1e-3, "slowest": 4e-3},
              "backward a": {"mean": 1e-3, "slowest": 2e-3},
              "wait a": {"mean": 1e-3, "slowest": 9e-3}}
    who = {"rank": 3, "host": "node7", "times": 1.42}
    said = "slowest of the ranks: 3 (node7), which computes 1.42 times as long as the median of the others"
    assert slowest_said(who, layers) == f"{said}: ms a step beyond the mean, forward a 3.00, backward a 1.00"
    assert slowest_said(who | {"times": 1.04}, layers) == said.replace("1.42", "1.04")
