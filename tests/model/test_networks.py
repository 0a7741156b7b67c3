"""Sums on networks that are not here: formulas at known points, and which algorithm is taken."""

import itertools

import pytest

from mpilayer.model.networks import ADDING, NETWORKS, Direct, Network, Sums, algorithms, link_of, wire_of
from mpilayer.model.wire import Measured

NET = Network(8e9, 1e-5, 0.0, "a gigabyte a second, for a test")
MIB = 1 << 20


def by_name(*arguments):
    return {each.name: each for each in algorithms(*arguments)}


def test_two_ranks_exchange_the_bytes_once_each_way():
    found = by_name(NET, 2, 1, MIB)
    assert found["ring"].wire == found["halving and doubling"].wire == pytest.approx(MIB / 1e9)
    assert found["ring"].rounds == found["halving and doubling"].rounds == 2
    assert found["tree"].rounds == 1
    assert found["ring"].core == pytest.approx(MIB / 2 * ADDING)


def test_a_thousand_ranks_make_two_thousand_messages_of_a_ring_and_twenty_of_halving():
    found = by_name(NET, 1024, 1, MIB)
    assert (found["ring"].rounds, found["halving and doubling"].rounds, found["tree"].rounds) == (2046, 20, 10)
    assert found["ring"].wire == pytest.approx(2 * MIB / 1e9, rel=1e-2)


def test_ranks_of_a_node_share_its_link_unless_they_sum_first():
    found = by_name(NET, 64, 8, MIB)
    assert found["halving and doubling"].wire == pytest.approx(8 * found["two levels"].wire)
    assert found["two levels"].rounds == 2 + 2 * 3
    assert by_name(NET, 8, 8, MIB)["two levels"].wire == 0, "nothing leaves a node that is alone"


def test_small_messages_go_along_a_tree_and_large_ones_are_halved():
    sums = Sums(NET, 64)
    assert sums.best(64).name == "tree"
    assert sums.best(64 * MIB).name in ("halving and doubling", "ring")
    assert Sums(NET, 1).parts(MIB) == (0.0, 0.0)


def test_a_rank_that_looks_seldom_pays_for_every_message():
    (latency, _), (slow, _) = Sums(NET, 64).parts(64), Sums(NET, 64, look=1e-4).parts(64)
    assert slow == pytest.approx(latency + 6 * 1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_more_ranks_and_more_bytes_never_take_less(name):
    sizes = [4**power for power in range(3, 14)]
    for ranks in (2, 16, 1024, 65536):
        times = [sum(Sums(NETWORKS[name], ranks).parts(size)) for size in sizes]
        assert all(less <= more for less, more in itertools.pairwise(times))
    for kind in (Sums, Direct):
        times = [sum(kind(NETWORKS[name], 2**power).parts(MIB)) for power in range(1, 17)]
        assert all(less <= more * 1.0001 for less, more in itertools.pairwise(times)), kind
    link, wire = link_of(NETWORKS[name], 64), wire_of(NETWORKS[name], 64)
    assert link.latency > 0 < wire.core.per_byte
    assert link.seconds(16 * MIB) == pytest.approx(sum(wire.idle.parts(16 * MIB)), rel=0.01)


def test_what_was_measured_is_interpolated_and_goes_on_at_the_mean_rate():
    found = Measured(1.0, (10, 30), (2.0, 6.0))
    assert [sum(found.parts(size)) for size in (0, 5, 10, 20, 30, 60)] == pytest.approx([1, 1.5, 2, 4, 6, 11])
    assert found.parts(20)[0] == 1.0
