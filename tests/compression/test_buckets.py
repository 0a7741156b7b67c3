"""How layers become messages, and what their times say about sizes."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpilayer.compression.buckets import LINE, cut, due
from mpilayer.mpi.link_model import LinkModel

SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=8)
LIMITS = st.one_of(st.none(), st.integers(0, 12000))


def inventory(sizes):
    """Layers as a net lays them out: each begins on a cache line."""
    starts = itertools.accumulate((-(-size // LINE) * LINE for size in sizes), initial=0)
    return [(f"l{n}", start, start + size) for n, (start, size) in enumerate(zip(starts, sizes, strict=False))]


@settings(deadline=None)
@given(SIZES, LIMITS, LIMITS)
def test_messages_hold_every_number_once_and_in_order(sizes, bucket, chunk):
    layers = inventory(sizes)
    messages = cut(layers, bucket, chunk)
    assert all(m.begin < m.end for m in messages)
    assert all(one.end <= other.begin for one, other in itertools.pairwise(messages))
    covered = np.zeros(layers[-1][2], int)
    for message in messages:
        covered[message.begin:message.end] += 1
    assert all((covered[begin:end] == 1).all() for _, begin, end in layers)
    for message in messages:
        overlapping = [name for name, begin, end in layers if begin < message.end and message.begin < end]
        assert list(message.layers) == overlapping


@settings(deadline=None)
@given(SIZES, LIMITS, st.integers(1, 12000))
def test_large_layers_are_split_evenly_on_cache_lines(sizes, bucket, chunk):
    for name, begin, end in inventory(sizes):
        if 4 * (end - begin) > chunk:
            pieces = [m for m in cut(inventory(sizes), bucket, chunk) if name in m.layers]
            assert all(m.layers == (name,) and (m.begin - begin) % LINE == 0 for m in pieces)
            lengths = [m.end - m.begin for m in pieces]
            assert max(lengths) - min(lengths) <= 2 * LINE
            assert 4 * max(lengths) <= max(chunk, 4 * LINE) + 8 * LINE


@given(SIZES, st.integers(0, 12000))
def test_small_neighbours_are_fused_until_they_fill_a_bucket(sizes, bucket):
    messages = cut(inventory(sizes), bucket, None)
    assert all(4 * (m.end - m.begin) >= bucket for m in messages[:-1])
    ends = {name: end for name, _, end in inventory(sizes)}
    assert all(4 * (ends[m.layers[-2]] - m.begin) < bucket for m in messages if len(m.layers) > 1)


@settings(deadline=None)
@given(SIZES, LIMITS, st.integers(4 * LINE, 12000))
def test_no_message_is_larger_than_allowed(sizes, bucket, most):
    messages = cut(inventory(sizes), bucket, most, most)
    assert all(4 * (m.end - m.begin) <= most + 4 * LINE for m in messages)
    assert list(dict.fromkeys(name for m in messages for name in m.layers)) == [name for name, _, _ in inventory(sizes)]


def test_no_limits_make_one_message_and_none_of_bytes_one_a_layer():
    assert len(cut(inventory([5, 1000, 70]), None, None)) == 1
    assert [m.name for m in cut(inventory([5, 1000, 70]), 0, None)] == ["l0", "l1", "l2"]
    assert [m.name for m in cut(inventory([5, 1000, 70]), None, 2000)] == ["l0", "l1 1/2", "l1 2/2", "l2"]
    assert [m.name for m in cut(inventory([5, 6, 70]), None, None)] == ["l0..l2"]


def test_a_message_is_due_when_its_first_layer_is_read():
    forward = [SimpleNamespace(name=name) for name in ("l2", "l1", "l0")]
    assert due(cut(inventory([5, 6, 70]), 40, None), forward) == [1, 0]


def test_sizes_follow_from_latency_and_bandwidth():
    network = LinkModel(1e-4, 1e-8)
    assert network.seconds(10**6) == pytest.approx(1e-4 + 1e-2)
    assert network.latency / network.seconds(network.bucket) == pytest.approx(0.1, rel=1e-3)
    assert network.chunk >= 2**20
    assert LinkModel(1e-2, 1e-8).chunk == 4 * LinkModel(1e-2, 1e-8).bucket
