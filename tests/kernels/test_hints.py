import numpy as np
from numba import njit

from kernels.hints import prefetch, restrict


@njit
def fill(array, value):
    alone = restrict(array)
    for i in range(alone.size):
        alone[i] = value


@njit
def fill_twice(array):
    fill(array, 1)
    fill(array, array[0] + 2)
    return array[-1]


@njit
def fetch(array):
    prefetch(array, 0)
    prefetch(array, array.size + 100)


def test_what_is_written_to_restricted_memory_alone_is_written():
    for dtype in (np.float32, np.uint8):
        array = np.zeros(100, dtype)
        assert fill_twice(array) == 3
        np.testing.assert_array_equal(array, 3)


def test_prefetching_changes_nothing_even_beyond_the_end():
    for dtype in (np.float32, np.uint8):
        array = np.arange(7, dtype=dtype)
        fetch(array)
        np.testing.assert_array_equal(array, np.arange(7))
