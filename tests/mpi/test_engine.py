"""The compiled loop on a made-up MPI, whose requests complete when the test says so; then on ranks."""

import ctypes
import itertools
import random
import time

import numpy as np
import pytest

import kernels
from mpilayer.mpi.collectives import Calls, Native
from mpilayer.mpi.engine import Engine, Operation
from mpilayer.mpi.link_model import LinkModel
from mpilayer.mpi.progress import PROGRESS
from tests.ranks import on_ranks

START = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64)
TEST = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64)
WORK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64)


VOTE = 999  # the request of votes


class MadeUp:
    """Requests are numbers; `started` and `worked` list what was called, `complete` what has completed."""

    def __init__(self, code=0):
        self.started, self.worked, self.complete, self.code = [], [], set(), code
        self._start, self._test, self._work = START(self.start), TEST(self.tested), WORK(self.work)

    def start(self, request):
        self.started.append(request)
        self.complete.discard(request)
        return self.code

    def tested(self, request, flag, status):
        flag[0] = request in self.complete
        return 0

    def work(self, number):
        self.worked.append((number, list(self.started)))
        return 0

    def operations(self, *requests):
        address = ctypes.cast(self._start, ctypes.c_void_p).value
        work = ctypes.cast(self._work, ctypes.c_void_p).value
        return tuple(Operation((address, request), request, (work, request) if number else ())
                     for number, request in enumerate(requests))

    def engine(self, operations, lanes, **options):
        return Engine(operations, lanes, ctypes.cast(self._test, ctypes.c_void_p).value, **options)


def simple(messages, lanes, slots=1):
    """Message m of slot s is request 100 s + m."""
    mpi = MadeUp()
    return mpi, mpi.engine([[mpi.operations(100 * s + m) for m in range(messages)] for s in range(slots)], lanes)


def finish(mpi, engine):
    """Let everything complete."""
    for _ in range(10):
        mpi.complete |= set(mpi.started)
        engine.advance()


def test_messages_go_in_the_order_of_their_numbers_as_many_as_there_are_lanes():
    mpi, engine = simple(5, lanes=2)
    for message in (0, 1, 3, 4):
        engine.mark(0, message, ready=True)
    engine.advance()
    assert mpi.started == [0, 1]
    mpi.complete = {0}
    engine.advance()
    assert (mpi.started, engine.arrived(0, 0), engine.arrived(0, 1)) == ([0, 1], True, False), "2 is not ready"
    engine.mark(0, 2, ready=True)
    engine.advance()
    assert mpi.started == [0, 1, 2]
    assert not engine.quiet
    finish(mpi, engine)
    assert mpi.started == [0, 1, 2, 3, 4]
    assert engine.quiet


def test_slots_take_turns_from_the_first_one_used():
    mpi, engine = simple(2, lanes=4, slots=3)
    engine.uses(2, 0)
    for step in (2, 0, 1, 2):
        for message in (0, 1):
            engine.mark(step, message, ready=False)
            engine.mark(step, message, ready=True)
        engine.advance()
        finish(mpi, engine)
    assert mpi.started == [200, 201, 0, 1, 100, 101, 200, 201]


def test_messages_of_two_steps_are_in_flight_together_though_a_step_has_but_one():
    mpi, engine = simple(1, lanes=2, slots=2)
    for slot in (0, 1):
        engine.mark(slot, 0, ready=True)
    engine.advance()
    assert mpi.started == [0, 100]
    finish(mpi, engine)
    assert engine.quiet


def test_the_second_operation_starts_after_the_first_has_completed_and_the_work_between_is_done():
    mpi = MadeUp()
    engine = mpi.engine([[mpi.operations(0, 10), mpi.operations(1, 11)]], lanes=2)
    for message in (0, 1):
        engine.mark(0, message, ready=True)
    engine.advance()
    assert (mpi.started, mpi.worked) == ([0, 1], [])
    mpi.complete = {1}
    engine.advance()
    assert mpi.started == [0, 1, 11]
    assert mpi.worked == [(11, [0, 1])]
    assert not engine.arrived(0, 1)
    finish(mpi, engine)
    assert [engine.arrived(0, message) for message in (0, 1)] == [True, True]


def test_an_error_of_mpi_stops_everything_and_is_kept():
    mpi = MadeUp(code=77)
    engine = mpi.engine([[mpi.operations(0), mpi.operations(1)]], lanes=2)
    engine.mark(0, 0, ready=True)
    engine.mark(0, 1, ready=True)
    engine.advance()
    engine.advance()
    assert (mpi.started, engine.error) == ([0], 77)


class Failing(MadeUp):
    """An MPI in which the calls for some requests fail with a code."""

    def __init__(self, start=(), test=(), code=77):
        super().__init__()
        self.bad_start, self.bad_test, self.code = set(start), set(test), code

    def start(self, request):
        super().start(request)
        return self.code if request in self.bad_start else 0

    def tested(self, request, flag, status):
        if request in self.bad_test:
            flag[0] = 1
            return self.code
        return super().tested(request, flag, status)


@pytest.mark.parametrize("lanes", [(0, 1), (1, 0)])
def test_an_error_in_one_lane_is_not_undone_by_success_in_another(lanes):
    bad, good = lanes
    mpi = Failing(test=[bad])
    engine = mpi.engine([[mpi.operations(0), mpi.operations(1)]], lanes=2)
    for message in (0, 1):
        engine.mark(0, message, ready=True)
    engine.advance()
    mpi.complete = {good}
    for _ in range(3):
        engine.advance()
        mpi.bad_test.clear()  # what MPI says of the request later does not matter
        mpi.complete |= {bad}
    assert engine.error == 77
    assert not engine.arrived(0, bad)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_second_operation_that_cannot_be_started_is_an_error(failing):
    mpi = Failing(start=[10 + failing])
    engine = mpi.engine([[mpi.operations(0, 10), mpi.operations(1, 11)]], lanes=2)
    for message in (0, 1):
        engine.mark(0, message, ready=True)
    engine.advance()
    for _ in range(4):
        mpi.complete |= set(mpi.started)
        engine.advance()
    assert engine.error == 77
    assert not engine.arrived(0, failing)


@pytest.mark.parametrize("how", ["start", "test"])
def test_a_vote_that_fails_is_an_error(how):
    mpi = Failing(**{how: [VOTE]})
    engine = mpi.engine([[mpi.operations(0), mpi.operations(1)]], lanes=1, due=[1, 0],
                        vote=lambda number: mpi.operations(VOTE)[0])
    engine.mark(0, 0, ready=True)
    for _ in range(3):
        engine.advance()
        mpi.complete |= set(mpi.started)
    assert engine.error == 77
    assert not engine.arrived(0, 0)


def test_an_error_of_one_engine_is_its_own():
    broken, sound = Failing(test=[0]), MadeUp()
    engines = [mpi.engine([[mpi.operations(0)]], lanes=1) for mpi in (broken, sound)]
    for engine in engines:
        engine.mark(0, 0, ready=True)
        engine.advance()
    sound.complete = {0}
    for engine in engines:
        engine.advance()
    assert [engine.error for engine in engines] == [77, 0]
    assert [engine.arrived(0, 0) for engine in engines] == [False, True]


def test_times_and_busy_seconds_tell_when_messages_were_on_their_way():
    mpi, engine = simple(1, lanes=1)
    before = time.perf_counter()
    engine.mark(0, 0, ready=True)
    engine.advance()
    time.sleep(0.02)
    assert engine.busy() >= 0.02
    mpi.complete = {0}
    engine.advance()
    began, ended = engine.times(0, 0)
    assert before <= began <= ended - 0.02 <= time.perf_counter()
    assert engine.busy() == pytest.approx(ended - began)
    assert 0 < engine.inside() < time.perf_counter() - before


class Together:
    """Ranks with made-up MPI: a vote or a message completes on all when all have started it."""

    def __init__(self, ranks, messages, due, lanes):
        self.mpis = [MadeUp() for _ in range(ranks)]
        self.votes, self.numbers = 0, []
        self.engines = [self._engine(rank, messages, due, lanes) for rank in range(ranks)]

    def _engine(self, rank, messages, due, lanes):
        mpi = self.mpis[rank]

        def vote(number):
            self.numbers.append(number)
            return mpi.operations(VOTE)[0]

        return mpi.engine([[mpi.operations(m) for m in range(messages)]], lanes, due=due, vote=vote)

    def deliver(self):
        """Complete the votes and messages that all ranks have started, votes by the least number."""
        if min(mpi.started.count(VOTE) for mpi in self.mpis) > self.votes:
            self.votes += 1
            least = min(int(number[0]) for number in self.numbers)
            for number, mpi in zip(self.numbers, self.mpis, strict=True):
                number[0] = least
                mpi.complete.add(VOTE)
        everywhere = set.intersection(*(set(mpi.started) for mpi in self.mpis)) - {VOTE}
        for mpi in self.mpis:
            mpi.complete |= everywhere


@pytest.mark.parametrize("seed", range(20))
def test_by_need_all_ranks_start_messages_in_one_order_and_urgent_ones_overtake(seed):
    rng = random.Random(seed)
    messages, ranks = rng.randint(1, 30), rng.randint(1, 4)
    due = [rng.randint(0, 5) for _ in range(messages)]
    job, ready = Together(ranks, messages, due, lanes=rng.randint(1, 3)), [0] * ranks
    for _ in range(2000):
        rank = rng.randrange(ranks)
        if ready[rank] < messages and rng.random() < 0.3:
            job.engines[rank].mark(0, ready[rank], ready=True)
            ready[rank] += 1
        job.engines[rank].advance()
        job.deliver()
    orders = [[request for request in mpi.started if request != VOTE] for mpi in job.mpis]
    assert all(sorted(order) == list(range(messages)) for order in orders), "every message went, once"
    assert all(order == orders[0] for order in orders)


def test_by_need_what_is_due_first_goes_first_once_every_rank_has_it():
    job = Together(2, 6, due=[5, 4, 3, 2, 1, 0], lanes=1)
    for engine in job.engines:
        for message in range(4 if engine is job.engines[0] else 2):
            engine.mark(0, message, ready=True)
    for _ in range(50):
        for engine in job.engines:
            engine.advance()
            job.deliver()
    assert [request for request in job.mpis[0].started if request != VOTE] == [1, 0], "rank 1 has 0 and 1 only"


def messages_of(ranks, count, size):
    """An engine on MPI, and its buffer of as many messages."""
    calls = Calls(ranks)
    reduction, buffer = Native(calls), np.zeros(count * size, np.float32)
    operations = [reduction.operations(part, 0) for part in np.split(buffer, count)]
    return calls, buffer, operations


@on_ranks(2, 3)
def test_every_way_of_progress_moves_messages(ranks):
    x, w = np.ones((64, 512), np.float32), np.ones((512, 512), np.float32)
    kernels.dense(x, w)
    for name, way in PROGRESS.items():
        calls, buffer, operations = messages_of(ranks, 4, 1000)
        buffer[:] = ranks.rank + 1
        engine = Engine([operations], 2, calls.test)
        with way(engine) as move:
            for message in range(4):
                engine.mark(0, message, ready=True)
            engine.advance()
            ranks.meet()
            deadline = time.monotonic() + 20
            while name != "none" and not engine.quiet and time.monotonic() < deadline:
                kernels.dense(x, w)
                move()
            ranks.until(lambda e=engine: e.advance() or e.quiet)
        assert (buffer == sum(range(1, ranks.size + 1))).all(), name


@on_ranks(2)
def test_kernels_move_messages_without_python(ranks):
    """Nothing but kernels runs between the post and the look, yet all four messages arrive, one after the other."""
    x, w = np.ones((512, 1024), np.float32), np.ones((1024, 1024), np.float32)
    kernels.dense(x, w)
    calls, buffer, operations = messages_of(ranks, 4, 100000)
    engine = Engine([operations], 1, calls.test)
    with PROGRESS["kernel"](engine):
        for message in range(4):
            engine.mark(0, message, ready=True)
        ranks.meet()
        for _ in itertools.takewhile(lambda _: not engine.quiet, range(300)):
            kernels.dense(x, w)
        assert engine.quiet


@on_ranks(2)
def test_kernels_look_as_often_as_the_messages_so_far_ask_for(ranks):
    asked, link = [], LinkModel(0.0, 8e-9)
    calls, _, operations = messages_of(ranks, 4, 100000)
    engine = Engine([operations], 1, calls.test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "set_progress", lambda address, argument=0, often=None: asked.append(often))
        with PROGRESS["kernel"](engine, link, ranks.size):
            ranks.meet()
            for message in range(4):
                engine.mark(0, message, ready=True)
            ranks.until(lambda: engine.advance() or engine.quiet)
        with PROGRESS["kernel"](engine, link, ranks.size):
            pass
        patch.setenv("MPILAYER_PROGRESS_US", "77")
        with PROGRESS["kernel"](engine, link, ranks.size):
            pass
    lasting = engine.busy() / 4
    found = [often for often in asked if often]
    assert found == [round(1e6 * link.interval(2)), round(1e6 * link.interval(2, lasting)), 77]


@on_ranks(2)
def test_without_persistent_collectives_requests_are_made_by_each_start(ranks):
    calls = Calls(ranks)
    calls.persistent = False
    buffer = np.full(1000, ranks.rank, np.float32)
    engine = Engine([[Native(calls).operations(buffer, 0)]], 1, calls.test)
    for step in range(3):
        buffer[:] = ranks.rank + step
        engine.mark(0, 0, ready=False)
        engine.mark(0, 0, ready=True)
        ranks.until(lambda: engine.advance() or engine.quiet)
        assert (buffer == 1 + 2 * step).all()
