import threading
import time

import pytest

from mpilayer.data import prefetch


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_everything_comes_in_its_order(ahead, count):
    assert list(prefetch(lambda i: i * i, range(count), ahead=ahead)) == [i * i for i in range(count)]


def test_the_next_is_read_meanwhile_and_no_more():
    read, gate = [], threading.Event()

    def slow(i):
        read.append(i)
        if len(read) == 2:
            gate.set()
        return i

    items = prefetch(slow, range(5), ahead=True)
    assert next(items) == 0
    assert gate.wait(10)
    time.sleep(0.05)
    assert read == [0, 1]
    items.close()


def test_without_a_free_core_nothing_is_read_before_it_is_asked_for():
    read, this = [], threading.get_ident()
    items = prefetch(lambda i: read.append(threading.get_ident()), range(5), ahead=False)
    next(items)
    assert read == [this]


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_comes_when_its_item_is_asked_for(ahead):
    items = prefetch(lambda i: 1 // (2 - i), range(5), ahead=ahead)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_no_thread_stays_when_the_reader_stops_early():
    before = threading.active_count()
    items = prefetch(lambda i: i, range(5), ahead=True)
    next(items)
    items.close()
    assert threading.active_count() == before


def test_whoever_waits_may_do_something_else():
    gate, rests = threading.Event(), []

    def rest(seconds):
        rests.append(seconds)
        gate.set()
        time.sleep(seconds)

    assert list(prefetch(lambda i: gate.wait(10), range(2), ahead=True, rest=rest)) == [True, True]
    assert rests
