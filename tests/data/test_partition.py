import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpilayer.data import DataError, batches, open_data, partition, share


@settings(deadline=None)
@given(n=st.integers(1, 300), size=st.integers(1, 300), seed=st.integers(0, 1 << 40), epoch=st.integers(0, 9))
def test_batches_take_each_sample_at_most_once(n, size, seed, epoch):
    size = min(n, size)
    order = batches(n, size, seed=seed, epoch=epoch)
    assert order.shape == (n // size, size)
    assert order.dtype == np.int64
    assert len(np.unique(order)) == order.size
    assert order.min() >= 0
    assert order.max() < n
    np.testing.assert_array_equal(order, batches(n, size, seed=seed, epoch=epoch))


def test_batches_change_with_epoch_and_seed():
    orders = [batches(1000, 300, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({order.tobytes() for order in orders}) == 4
    assert len({frozenset(order.ravel().tolist()) for order in orders}) == 4  # other samples sit out


@settings(deadline=None)
@given(n=st.integers(1, 300), block=st.integers(1, 40), together=st.integers(1, 5), seed=st.integers(0, 9))
def test_blocks_are_mixed_a_few_at_a_time(n, block, together, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "TOGETHER", together)
        order = batches(n, 1, seed=seed, epoch=3, block=block).ravel()
        np.testing.assert_array_equal(order, batches(n, 1, seed=seed, epoch=3, block=block).ravel())
    assert sorted(order) == list(range(n))
    first = list(dict.fromkeys(order // block))  # in which order blocks come
    turns = [first.index(each) // together for each in order // block]
    assert turns == sorted(turns)


def test_blocks_come_in_another_order_in_each_epoch():
    orders = [batches(600, 600, seed=0, epoch=epoch, block=10).ravel() // 10 for epoch in range(3)]
    assert len({tuple(dict.fromkeys(order)) for order in orders}) == 3
    assert len(set(orders[0][:160])) == partition.TOGETHER  # all of these before any other
    assert list(orders[0][:160]) != sorted(orders[0][:160])


def test_a_batch_larger_than_the_data():
    with pytest.raises(DataError, match="at most 10, the number of samples, got 11"):
        batches(10, 11, seed=0, epoch=0)


@pytest.mark.parametrize(("bad", "fragment"), [
    ({"n": 0}, "n to be an integer >= 1, got 0"),
    ({"size": 0}, "size to be an integer >= 1, got 0"),
    ({"size": 2.0}, "size to be an integer >= 1, got 2.0"),
    ({"seed": -1}, "seed to be an integer >= 0, got -1"),
    ({"epoch": None}, "epoch to be an integer >= 0, got None"),
    ({"block": 0}, "block to be an integer >= 1, got 0"),
])
def test_wrong_batches(bad, fragment):
    with pytest.raises(DataError, match=fragment):
        batches(**{"n": 10, "size": 2, "seed": 0, "epoch": 0} | bad)


@given(size=st.integers(0, 500), ranks=st.integers(1, 70))
def test_shares_cover_a_batch_in_order(size, ranks):
    batch = np.arange(size)
    parts = [batch[share(size, rank, ranks)] for rank in range(ranks)]
    np.testing.assert_array_equal(np.concatenate(parts), batch)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(("size", "rank", "ranks", "fragment"), [
    (8, 2, 2, r"rank in 0\.\.1, got 2"),
    (8, -1, 2, "rank to be an integer >= 0, got -1"),
    (8, 0, 0, "ranks to be an integer >= 1, got 0"),
    (-1, 0, 1, "size to be an integer >= 0, got -1"),
])
def test_wrong_share(size, rank, ranks, fragment):
    with pytest.raises(DataError, match=fragment):
        share(size, rank, ranks)


def test_an_empty_share_reads_nothing():
    with open_data() as digits:
        x, y = digits.train.read(batches(1437, 2, seed=0, epoch=0)[0][share(2, 0, 3)])
    assert x.shape == (0, 8, 8, 1)
    assert y.shape == (0,)
