import numpy as np
import pytest

from mpilayer.base.errors import UserError
from mpilayer.data import DataError, open_data
from mpilayer.data.node_shared import hold
from tests.ranks import on_ranks


def numbers():
    return np.arange(1_000_000, dtype=np.int32).reshape(1000, 1000)


def test_without_ranks_it_is_the_array():
    array, close = hold(numbers)
    np.testing.assert_array_equal(array, numbers())
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    close()


@on_ranks(1, 3)
def test_one_rank_loads_and_all_read_the_same_memory(ranks):
    loaded = []

    def load():
        loaded.append(ranks.rank)
        return numbers()

    array, close = hold(load, ranks)
    assert ranks.gather(len(loaded)) == [1] + [0] * (ranks.size - 1)
    np.testing.assert_array_equal(array, numbers())
    assert array.dtype == np.int32
    assert not array.flags.writeable
    ranks.meet()
    if ranks.size > 1 and ranks.rank == 0:
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        np.frombuffer(base.base, np.int32)[:1] = -7  # behind numpy's back
    ranks.meet()
    assert array[0, 0] == (-7 if ranks.size > 1 else 0)
    ranks.meet()
    close()


@on_ranks(3)
def test_an_error_reaches_all(ranks):
    def load():
        raise DataError("file | damaged | try: another")

    with pytest.raises(UserError, match="damaged"):
        hold(load, ranks)


@on_ranks(3)
def test_digits_of_all_ranks_are_the_same(ranks):
    with open_data(ranks=ranks) as data:
        x, y = data.train.read(np.arange(100))
        with open_data() as alone:
            np.testing.assert_array_equal(x, alone.train.read(np.arange(100))[0])
        ranks.meet()
