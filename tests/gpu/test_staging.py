"""Copies between a GPU and MPI: nothing goes before it has been computed, and nothing is read before it is back."""

import contextlib
import time

import numpy as np
import pytest

import nets
import tests.emulator
from kernels.gpu import fetch
from mpilayer.exchange.settings import Settings
from mpilayer.gpu import cuda_aware, staging
from mpilayer.gpu.batch_feed import Feed
from mpilayer.gpu.device_queue import DeviceGradientQueue
from mpilayer.gpu.staging import CudaAware, DeviceScalar, SingleRank, Staged
from mpilayer.gpu.trace import GpuTrace, is_complete
from tests.ranks import on_ranks

STEPS = 4
EVERY_WAY = [{}, {"wire": "bfloat16"}, {"reduction": "ordered"}, {"order": "need"}, {"order": "split"},
             {"delay": 2}, {"wire": "topk", "wire_options": {"top_share": 1.0}}, {"progress": "thread"},
             {"progress": "none"}]


def gradient(rank, step, size):
    """Small whole numbers, which no type rounds."""
    return np.random.default_rng([rank, step]).integers(-8, 9, size).astype(np.float32)


class Sums:
    """Made-up gradients on their way; `right` if the net's stream sees their sums over the ranks, whenever it looks."""

    def __init__(self, ranks, delay=0, order="backward", **settings):
        self.ranks, self.slots = ranks, delay + 1
        self.net = nets.build("alexnet-mini", classes=10, shape=(8, 8, 1), device="gpu")
        settings = Settings(**{"bucket": 20_000, "chunk": 30_000, **settings})
        self.queue = DeviceGradientQueue(ranks, self.net, delay=delay, order=order, settings=settings, trace=GpuTrace())
        self.seen = [{} for _ in range(STEPS)]

    def take(self, up_to):
        for layer in self.net.layers:
            for step, total in self.queue.settle(layer, up_to):
                self.seen[step][layer.name] = total.copy()

    def right(self):
        for step in range(STEPS):
            self.take(step - self.slots)
            self.net.write_gradients_to(step % self.slots)
            for layer in self.net.backward_layers:
                layer.g[:] = self.net.put(gradient(self.ranks.rank, step, layer.g.size))
                self.queue.post(step, layer)
        self.take(STEPS)
        self.queue.close()
        good = all((fetch(total) == sum(gradient(rank, step, total.size) for rank in range(self.ranks.size))).all()
                   for step, found in enumerate(self.seen) for total in found.values())
        return all(self.ranks.gather(good))


@on_ranks(2, 3, seconds=120)
def test_sums_are_right_however_late_streams_are(ranks):
    device = tests.emulator.install()
    for streams in ("eager", "late"):
        with device.emulator.mode(streams=streams):
            for settings in EVERY_WAY:
                sums = Sums(ranks, **settings)
                assert type(sums.queue.transfer) is Staged
                assert sums.right(), (streams, settings)


@contextlib.contextmanager
def careless(device, stream):
    """That stream waits for nothing."""
    wait = device.cuda.Stream.wait_event
    device.cuda.Stream.wait_event = lambda self, event: None if self is stream else wait(self, event)
    try:
        yield
    finally:
        device.cuda.Stream.wait_event = wait


def hasty(device, transfer):
    """Let it take copies that it has asked for as made."""
    send = transfer.send

    class Made(device.cuda.Event):
        done = True

    def sent(copy):
        send(copy)
        copy.began, copy.done = None, Made()

    transfer.send = sent


@on_ranks(2, seconds=120)
def test_no_wait_can_be_left_out(ranks):
    device = tests.emulator.install()
    with device.emulator.mode(streams="late"):
        for stream in ("outwards", "net"):
            sums = Sums(ranks)
            with careless(device, getattr(sums.queue.transfer, stream)):
                assert not sums.right(), stream
        sums = Sums(ranks)
        hasty(device, sums.queue.transfer)
        assert not sums.right()


@on_ranks(2, seconds=120)
def test_mpi_may_sum_in_the_memory_of_a_gpu_once_it_has_been_computed(ranks):
    """The stand-in's memory is memory to any MPI."""
    device = tests.emulator.install()
    with device.emulator.mode(streams="late"):
        for settings in ({}, {"delay": 1}, {"order": "need"}):
            sums = Sums(ranks, cuda_aware=True, **settings)
            assert type(sums.queue.transfer) is CudaAware
            assert sums.right()
        sums = Sums(ranks, cuda_aware=True)
        with careless(device, sums.queue.transfer.outwards):
            assert not sums.right()
        for settings in ({"reduction": "ordered"}, {"wire": "bfloat16"}, {"order": "split"}):
            assert type(Sums(ranks, cuda_aware=True, **settings).queue.transfer) is Staged


@on_ranks(2, seconds=120)
def test_an_mpi_is_given_the_memory_of_a_gpu_if_it_says_so_and_sums_there_are_right(ranks):
    from mpilayer.mpi.collectives import Calls

    tests.emulator.install()
    assert not cuda_aware.cuda_aware(ranks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Calls, "cuda_aware", True)
        assert cuda_aware.cuda_aware(ranks)
        patch.setattr(Calls, "cuda_aware", ranks.rank == 0)
        assert not cuda_aware.cuda_aware(ranks)
        patch.setattr(Calls, "cuda_aware", True)
        if ranks.rank == 0:
            patch.setattr(cuda_aware, "disguised", lambda array: np.zeros(array.shape, array.dtype))
        assert not cuda_aware.cuda_aware(ranks)


@on_ranks(1, seconds=120)
def test_one_rank_copies_nothing(ranks):
    device = tests.emulator.install()
    with device.emulator.mode(streams="late"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "pinned", None)
        for settings in ({}, {"wire": "bfloat16"}):
            sums = Sums(ranks, **settings)
            assert type(sums.queue.transfer) is SingleRank
            assert sums.right()


@pytest.fixture
def device():
    """The stand-in for CuPy."""
    return tests.emulator.install()


def test_a_number_comes_when_it_has_been_computed(device):
    with device.emulator.mode(streams="late"):
        number = DeviceScalar(device.full((3,), 2, np.float32).sum(dtype=np.float64))
        assert not number.done
        while not number.done:
            pass
        assert float(number) == 6


def fed(feed, device, count=6):
    """Whether the net's stream reads what it was fed with."""
    batches = [(np.full((4, 3), t, np.float32), np.full(4, t)) for t in range(count)]
    read = [[array * 1 for array in feed.put(*batch)] for batch in batches]
    return all((got.get() == want).all() for both in zip(read, batches, strict=True) for got, want in
               zip(*both, strict=True))


def test_a_batch_comes_while_the_one_before_is_computed_on(device):
    with device.emulator.mode(streams="late"):
        assert fed(Feed(), device)
        for stream in ("net", "stream"):
            feed = Feed()
            with careless(device, getattr(feed, stream)):
                assert not fed(feed, device), stream


def test_batches_may_be_of_other_sizes(device):
    feed = Feed()
    for size in (4, 4, 4, 1, 1, 4):
        (x,) = feed.put(np.full(size, size, np.float32))
        assert x.get().tolist() == [size] * size


def busy(stream, seconds):
    stream.launch_host_func(lambda _: time.sleep(seconds), None)


def test_what_a_gpu_did_between_two_marks_is_what_the_second_says(device):
    trace = GpuTrace()
    stream = device.cuda.get_current_stream()
    trace.next_step()
    busy(stream, 0.02)
    trace.add("compute", "forward a", trace.moment())
    time.sleep(0.03)
    begin = trace.moment()
    time.sleep(0.01)
    trace.add("exposed", "wait a", begin)
    busy(stream, 0.02)
    trace.add("update", "update a", trace.moment())
    trace.copied("out", "a", trace.record(stream), trace.record(stream))
    trace.settle()
    found = {name: end - start for _, name, start, end in trace.steps[-1]}
    assert 0.02 <= trace.seconds["compute"] < 0.03
    assert 0.04 <= trace.seconds["exposed"] == trace.exposed < 0.06
    assert 0.01 <= trace.seconds["waiting"] < 0.03
    assert 0.02 <= found["update a"] < 0.03
    assert {kind for kind, *_ in trace.steps[-1]} == {"compute", "exposed", "update", "waiting", "out"}
    ends = sorted((start, end) for kind, _, start, end in trace.steps[-1] if trace.rows.get(kind) == "GPU")
    assert all(after[0] == pytest.approx(before[1]) for before, after in zip(ends[:-1], ends[1:], strict=True))


def test_what_goes_wrong_on_a_gpu_ends_the_wait():
    cupy = tests.emulator.install()
    broken = cupy.RawModule(code='extern "C" __global__ void broken(int* x) { *x = 0; }').get_function("broken")
    with cupy.emulator.mode(streams="late"):
        broken((1,), (1,), (np.uint64(0),))
        event = cupy.cuda.get_current_stream().record()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="LaunchFailure"):
            any(is_complete(event) for _ in range(99))
        assert not event.done


def test_events_are_used_again(device):
    trace = GpuTrace()
    for _ in range(20):
        trace.next_step()
        for _ in range(10):
            trace.add("compute", "forward a", trace.moment())
    trace.restart()
    assert len(trace.events) < 40
