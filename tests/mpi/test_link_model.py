"""What sizes of messages follow from a link's latency and bandwidth."""

import math

import pytest

from mpilayer.mpi.link_model import LOOK, OFTEN, SELDOM, USUAL, LinkModel


def test_a_noisy_measurement_makes_no_absurd_sizes():
    """Large messages that seemed hardly slower than small ones once gave messages of 152 GiB."""
    noisy = LinkModel.between(4096, 0.01596, 1 << 20, 0.01595)
    assert noisy.bucket <= 64 << 20
    assert noisy.chunk <= 256 << 20
    assert LinkModel(0.015955, 1e-15).bucket == 64 << 20


@pytest.mark.parametrize(("ranks", "per_byte"), [(2, 8e-9), (16, 8e-9), (64, 80e-9)])
def test_looks_are_as_far_apart_as_costs_least(ranks, per_byte):
    link = LinkModel(1e-5, per_byte)
    best, message = link.interval(ranks), link.seconds(link.chunk)

    def lost(interval):
        return LOOK / interval + math.log2(ranks) * interval / message

    assert OFTEN < best < SELDOM
    assert all(lost(best) < lost(factor * best) for factor in (0.5, 0.9, 1.1, 2))
    assert link.interval(4 * ranks) < best < link.interval(ranks, 4 * message)


def test_looks_are_neither_too_close_nor_too_far_apart():
    assert LinkModel(1e-6, 1e-13).interval(65536) == OFTEN
    assert LinkModel(1.0, 1e-6).interval(2) == SELDOM
    assert LinkModel(0.0, 0.0).interval(2) == USUAL, "nothing is known"
