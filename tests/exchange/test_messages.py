"""How large and how many the messages of a gradient may be."""

from types import SimpleNamespace

import numpy as np
import pytest

from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS
from mpilayer.exchange.messages import INT_NUMBERS, buckets_of

RANKS = 3
HUGE = {"c": (0, 1_500_000_000), "b": (1_500_000_000, 3_000_000_000), "a": (3_000_000_000, 4_500_000_000)}


def gradient(offsets):
    """A net's layout; no memory stands behind it."""
    layers = [SimpleNamespace(name=name, g=SimpleNamespace(size=end - begin)) for name, (begin, end) in offsets.items()]
    return SimpleNamespace(offsets=offsets, backward_layers=layers)


@pytest.mark.parametrize("bucket", [None, 0, 1 << 20])
@pytest.mark.parametrize("chunk", [None, 1 << 30])
@pytest.mark.parametrize("wire", ["float32", "bfloat16"])
def test_no_message_has_more_numbers_than_an_int_counts(bucket, chunk, wire):
    found = buckets_of(gradient(HUGE), COMPRESSORS[wire](), bucket, chunk, RANKS)
    assert all(0 < bucket.end - bucket.begin <= INT_NUMBERS for bucket in found)
    assert sum(bucket.end - bucket.begin for bucket in found) == 4_500_000_000
    assert found[-1].end == 4_500_000_000


def test_small_layers_are_not_fused_beyond_it():
    layers = {f"l{number}": (number * 2**28, (number + 1) * 2**28) for number in range(12)}
    found = buckets_of(gradient(layers), COMPRESSORS["float32"](), None, None, RANKS)
    assert [len(bucket.layers) for bucket in found] == [4, 4, 4]


def test_of_what_all_ranks_send_all_counts():
    layers = {f"l{number}": (number * 2**27, (number + 1) * 2**27) for number in range(4)}
    found = buckets_of(gradient(layers), COMPRESSORS["topk"](top_share=0.9), None, None, RANKS)
    assert all(RANKS * (bucket.end - bucket.begin) < 2**31 for bucket in found)
    with pytest.raises(UserError, match=r"a message of [\d,]+ numbers \| expected at most"):
        buckets_of(gradient({"one": (0, 2**30)}), COMPRESSORS["topk"](top_share=0.9), None, None, RANKS)


def test_more_messages_than_anybody_wants_are_refused_at_once():
    offsets = {"a": (0, 6_000_000)}
    with pytest.raises(UserError, match=r"chunk 4 \| makes 375,000 messages .* at most 10,000 \| try: 3k"):
        buckets_of(gradient(offsets), COMPRESSORS["float32"](), 0, 4, RANKS)
    assert len(buckets_of(gradient(offsets), COMPRESSORS["float32"](), 0, 3 << 10, RANKS)) <= 10_000
    many = {f"l{number}": (16 * number, 16 * number + 16) for number in range(12_000)}
    assert len(buckets_of(gradient(many), COMPRESSORS["float32"](), 0, 1 << 20, RANKS)) == 12_000


def test_the_layout_is_kept():
    sizes = np.random.default_rng(0).integers(1, 10**6, 30)
    ends = np.cumsum(sizes)
    offsets = {f"l{n}": (int(end - size), int(end)) for n, (size, end) in enumerate(zip(sizes, ends, strict=True))}
    found = buckets_of(gradient(offsets), COMPRESSORS["float32"](), 1 << 20, 1 << 22, RANKS)
    assert sum(bucket.end - bucket.begin for bucket in found) == ends[-1]
