"""The stand-in for CuPy: NumPy's results, CuPy's strictness, and streams that do nothing before they must."""

import pickle
import time

import numpy as np
import pytest

from tests import emulator

cupy = emulator.install()
F = np.float32
CODE = """
extern "C" __global__ void add(const float* x, float y, float* z, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) z[i] = x[i] + y;
}
"""


@pytest.fixture
def late():
    with cupy.emulator.mode(streams="late"):
        yield
        cupy.cuda.Device().synchronize()


@pytest.fixture(params=["eager", "late"])
def either(request):
    with cupy.emulator.mode(streams=request.param):
        yield
        cupy.cuda.Device().synchronize()


def add(x, y, z, stream=None):
    kernel = cupy.RawModule(code=CODE).get_function("add")
    kernel((2,), (32,), (x, F(y), z, np.int32(x.size)), stream=stream)


def pinned(*values):
    array = np.frombuffer(cupy.cuda.alloc_pinned_memory(4 * len(values)), F, len(values))
    array[:] = values
    return array


# ---- arrays ----------------------------------------------------------------------------------------------------------

OPERATIONS = {
    "arithmetic": lambda xp, x, y: (x + y) * 2 - 1 / (y + 7) + (-x) ** 2 + abs(x) % 3 + (3 - x) // 2,
    "scalars keep the type": lambda xp, x, y: F(2) * x + 1.5,
    "comparisons": lambda xp, x, y: (x > y) & (x != 3) | (y <= 0),
    "product": lambda xp, x, y: x @ y.T,
    "in place": lambda xp, x, y: x.__iadd__(y).__imul__(2),
    "assignment": lambda xp, x, y: (x.__setitem__((slice(1, None), 2), y[1:, 0]), x)[1],
    "assignment of a scalar": lambda xp, x, y: (x.__setitem__(..., 5), x[0].fill(3), x)[2],
    "views": lambda xp, x, y: x[::2, None, 1:].T.reshape(-1, order="F"),
    "view of a view": lambda xp, x, y: x.reshape(-1)[3:].reshape(3, 3).swapaxes(0, 1).ravel(),
    "one value": lambda xp, x, y: x[1, 2] * 2,
    "other bits": lambda xp, x, y: x.view(np.uint32) >> 16,
    "mask": lambda xp, x, y: x[x > 2],
    "indices": lambda xp, x, y: x[xp.asarray([2, 0]), 1:],
    "taken": lambda xp, x, y: np.take(x, xp.asarray([1, 1, 2]), axis=0),
    "astype": lambda xp, x, y: x.astype(np.int8),
    "sum": lambda xp, x, y: x.sum(axis=1),
    "sum to a number": lambda xp, x, y: np.sum(y, dtype=np.float64),
    "largest": lambda xp, x, y: x.max(axis=0, keepdims=True),
    "statistics": lambda xp, x, y: xp.stack([x.mean(0), x.var(0), x.std(0), x.min(0)]),
    "place of the largest": lambda xp, x, y: np.argmax(y, axis=1),
    "all and any": lambda xp, x, y: np.isfinite(x).all() & (y > 2).any(),
    "concatenated": lambda xp, x, y: np.concatenate([x, y], axis=1),
    "split": lambda xp, x, y: np.split(x, [1], axis=1)[1],
    "ufunc with out": lambda xp, x, y: np.add(x, y, out=(x,)),
    "function with out": lambda xp, x, y: np.sum(x, axis=0, out=y[0]),
    "copyto": lambda xp, x, y: (np.copyto(x[1:], y[:2]), x)[1],
    "where": lambda xp, x, y: np.where(x > y, x, 0),
    "likes": lambda xp, x, y: np.zeros_like(x) + np.ones_like(y, dtype=np.float64) * np.full_like(x, 3),
    "made": lambda xp, x, y: xp.zeros((2, 3), F) + xp.ones(3, F) + xp.full(3, 2, F) + xp.arange(3, dtype=F),
    "square root": lambda xp, x, y: np.sqrt(np.square(np.maximum(x, 0))),
    "added at indices": lambda xp, x, y: (np.add.at(x, xp.asarray([1, 1]), y[0]), x)[1],
    "reduced": lambda xp, x, y: np.add.reduce(x, axis=1),
    "transposed copy": lambda xp, x, y: xp.ascontiguousarray(x.T),
    "nothing": lambda xp, x, y: x[:, 4:].sum(),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.usefixtures("either")
def test_operations_give_the_same_as_numpy(name):
    def data():
        return np.arange(12, dtype=F).reshape(3, 4), np.linspace(-3, 3, 12, dtype=F).reshape(3, 4)
    want = np.asarray(OPERATIONS[name](np, *data()))
    got = OPERATIONS[name](cupy, *map(cupy.asarray, data()))
    assert isinstance(got, cupy.ndarray)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got.get(), want, rtol=1e-6)


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = cupy.asarray(np.array([1, 2.5, -3], ml_dtypes.bfloat16))
    assert (x.astype(F) + 1).get().tolist() == [2, 3.5, -2]
    assert x.view(np.uint16).get().tolist() == [0x3f80, 0x4020, 0xc040]


FORBIDDEN = {
    "Implicit conversion to a NumPy array is not allowed": [
        lambda x, h: np.asarray(x), lambda x, h: np.array(x), lambda x, h: h.__setitem__(..., x)],
    "Unsupported type <class 'numpy.ndarray'>": [
        lambda x, h: x + h, lambda x, h: h + x, lambda x, h: x == h, lambda x, h: np.add(x, h),
        lambda x, h: x.__iadd__(h), lambda x, h: cupy.maximum(x, h), lambda x, h: x.__setitem__(..., h),
        lambda x, h: x[np.array([1])], lambda x, h: cupy.concatenate([x, h]), lambda x, h: cupy.full(3, np.ones(()))],
    "cannot mix arrays": [
        lambda x, h: np.concatenate([x, h]), lambda x, h: np.copyto(x, h), lambda x, h: np.copyto(h, x),
        lambda x, h: np.sum(x, out=h), lambda x, h: np.where(h, x, x)],
    "no implementation found": [lambda x, h: np.linalg.norm(x)],
    "unhashable": [lambda x, h: hash(x)],
    "bytes-like object": [lambda x, h: memoryview(x)],
    "cannot be set to": [lambda x, h: x.set(h)],
    "numpy.ndarray can be": [lambda x, h: x.set(x), lambda x, h: x.get(out=x)],
}


@pytest.mark.parametrize(("message", "mistake"), [(key, each) for key, found in FORBIDDEN.items() for each in found])
def test_host_and_device_do_not_mix(message, mistake):
    with pytest.raises(TypeError, match=message):
        mistake(cupy.ones(3, F), np.ones(3))


def test_what_is_known_of_an_array():
    x = cupy.zeros((4, 64), F)
    assert (len(x), x.ndim, x.size, x.itemsize, x.nbytes, x.strides) == (4, 2, 256, 4, 1024, (256, 4))
    assert x.data.ptr % 256 == 0
    assert x[1:].data.ptr == x.data.ptr + 256
    assert x.T.flags.f_contiguous
    assert not x.T.flags.c_contiguous
    assert x.flags.owndata
    assert not x[1].flags.owndata
    interface = x[:, 1:].__cuda_array_interface__
    assert (interface["data"], interface["shape"]) == ((x.data.ptr + 4, False), (4, 63))
    assert (interface["strides"], interface["typestr"], interface["version"]) == ((256, 4), "<f4", 3)
    assert np.may_share_memory(x, x[1:])
    assert not cupy.shares_memory(x[0], x[1])
    assert cupy.asarray(x) is x
    assert pickle.loads(pickle.dumps(x)).shape == x.shape
    assert (float(x[0, 0]), int(x[1, 1]), bool(x[0, 0]), x[0, 0].item()) == (0, 0, False, 0)
    assert np.isnan(cupy.empty(5, F).get()).all()
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.empty(3, object)


def test_what_is_known_of_the_device():
    device = cupy.cuda.Device(0)
    with device:
        device.use()
    assert device.attributes["MultiProcessorCount"] > 0
    assert device.compute_capability == "80"
    assert cupy.cuda.runtime.getDeviceCount() == 1
    assert cupy.cuda.runtime.getDeviceProperties(0)["warpSize"] == 32
    assert cupy.cuda.is_available()
    assert cupy.get_array_module(cupy.ones(1)) is cupy
    cupy.get_default_memory_pool().free_all_blocks()
    with pytest.raises(RuntimeError):
        cupy.cuda.Device(1)


# ---- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("waits", [False, True])
def test_a_missing_wait_for_an_event_is_found(waits):
    one, other = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    x, y, z = cupy.zeros(5, F), cupy.empty(5, F), cupy.empty(5, F)
    cupy.cuda.Device().synchronize()
    add(x, 1, y, stream=one)
    ready = one.record()
    if waits:
        other.wait_event(ready)
    with other:
        add(y, 1, z)
        assert cupy.cuda.get_current_stream() == other
        assert (z.get() == 2).all() == waits


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("runtime", [False, True])
def test_pinned_memory_is_written_when_the_event_is_done(runtime):
    stream, host, event = cupy.cuda.Stream(non_blocking=True), pinned(0, 0), cupy.cuda.Event(disable_timing=True)
    with stream:
        x = cupy.asarray(np.array([1, 2], F)) + 1
        if runtime:
            copy = cupy.cuda.runtime.memcpyAsync
            copy(host.ctypes.data, x.data.ptr, 8, cupy.cuda.runtime.memcpyDeviceToHost, stream.ptr)
        else:
            x.get(out=host, blocking=False)
        event.record()
    assert (host == 0).all()
    assert not event.done
    assert cupy.cuda.runtime.eventQuery(event.ptr) == 600
    assert (host == 0).all()
    asked = 2
    while not event.done:
        asked += 1
    assert asked <= 10
    assert host.tolist() == [2, 3]
    assert cupy.cuda.runtime.eventQuery(event.ptr) == 0
    assert stream.done


@pytest.mark.usefixtures("late")
def test_pinned_memory_is_read_late_and_other_memory_at_once():
    host, other = pinned(1, 1), np.ones(2, F)
    x, y, z = cupy.empty(2, F), cupy.empty(2, F), cupy.empty(2, F)
    x.set(host)
    y.set(other)
    z.data.copy_from_host_async(host.ctypes.data, 8, cupy.cuda.Stream.null)
    host[:] = other[:] = 5
    assert [array.get().tolist() for array in (x, y, z)] == [[5, 5], [1, 1], [5, 5]]
    with pytest.raises(ValueError, match="needs pinned memory"):
        z.data.copy_to_host_async(other.ctypes.data, 8)


@pytest.mark.usefixtures("late")
def test_nothing_is_done_before_it_must_be():
    stream, calls = cupy.cuda.Stream(non_blocking=True), []
    x = cupy.zeros(3, F)
    cupy.cuda.Device().synchronize()
    with stream:
        y = x + 1
        y[0] = 7
        stream.launch_host_func(calls.append, 1)
    assert np.isnan(y.get()).all()  # another stream's work
    assert not calls
    assert y.get(stream=stream).tolist() == [7, 1, 1]
    assert calls == [1]


@pytest.mark.usefixtures("late")
def test_the_null_stream_and_blocking_streams_wait_for_each_other():
    blocking, free = cupy.cuda.Stream(), cupy.cuda.Stream(non_blocking=True)
    x, y, z = cupy.zeros(3, F), cupy.empty(3, F), cupy.empty(3, F)
    add(x, 1, y, stream=blocking)
    add(y, 1, z)
    assert (z.get() == 2).all()
    add(z, 1, y)
    add(y, 1, x, stream=blocking)
    assert (x.get(stream=blocking) == 4).all()
    add(x, 1, y)
    assert (y.get(stream=free) == 3).all()  # as it was


@pytest.mark.usefixtures("either")
def test_events_tell_time():
    stream, start, end = cupy.cuda.Stream(), cupy.cuda.Event(), cupy.cuda.Event()
    start.record(stream)
    stream.launch_host_func(time.sleep, 0.01)
    stream.record(end)
    end.synchronize()
    assert 10 <= cupy.cuda.get_elapsed_time(start, end) < 1000
    with pytest.raises(RuntimeError):
        cupy.cuda.get_elapsed_time(start, cupy.cuda.Event())


@pytest.mark.usefixtures("late")
def test_what_goes_wrong_in_a_kernel_is_told_when_it_runs():
    x, y = cupy.zeros(64, F), cupy.zeros(8, F)
    add(x, 1, y)
    with pytest.raises(RuntimeError, match=r"kernel add, .* of argument 2, float32 \(8,\)"):
        y.get()


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("same", [False, True])
def test_freed_memory_is_used_again_by_the_stream_it_was_allocated_for(same):
    stream = cupy.cuda.Stream.null if same else cupy.cuda.Stream(non_blocking=True)
    x, y = cupy.ones(1000, F), cupy.zeros(1000, F)
    cupy.cuda.Device().synchronize()
    add(x, 1, y, stream=stream)
    del x
    cupy.cuda.Stream.null.synchronize()  # where the memory belongs to somebody else by now
    assert (y.get(stream=stream) == 2).all() == same


@pytest.mark.usefixtures("late")
def test_temporary_arrays_live_as_long_as_their_stream_needs_them():
    x = cupy.ones(1000, F)
    for _ in range(5):
        x = x + 1
    assert (x.get() == 6).all()
