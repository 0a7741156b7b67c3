import threading
import time

import numpy as np
import pytest
from numba import carray, cfunc, types

import kernels
from tests.kernels.oracle import random
from tests.ranks import environment, python

CALLS, INSIDE, TOGETHER = range(3)  # words of a record


@cfunc(types.void(types.CPointer(types.int64)))
def record(pointer):
    """Count the call; see whether another is under way."""
    words = carray(pointer, 3)
    words[INSIDE] += 1
    if words[INSIDE] > 1:
        words[TOGETHER] += 1
    words[CALLS] += 1
    words[INSIDE] -= 1


@pytest.fixture
def hook():
    """Sets the hook for an interval in microseconds and returns its record; none afterwards."""
    words = np.zeros(3, np.int64)

    def start(every_us):
        kernels.set_progress(record.address, words.ctypes.data, every_us)
        return words

    yield start
    kernels.set_progress(0)


def repeated(operation):
    """Twenty times, so that even a fast machine is at it for a while."""
    def run():
        for _ in range(20):
            operation()

    return run


X, W, W1, DY = random((4, 28, 28, 64)), random((3, 3, 64, 64), 1), random((1, 1, 64, 64), 1), random((4, 28, 28, 64), 2)
A, B = random((256, 512)), random((512, 512), 1)
OPERATIONS = {
    "conv2d": lambda: kernels.conv2d(X, W, padding=1), "conv2d, strided": lambda: kernels.conv2d(X, W, stride=2),
    "conv2d_dgrad": lambda: kernels.conv2d_dgrad(DY, W, X.shape, padding=1),
    "conv2d_wgrad": lambda: kernels.conv2d_wgrad(X, DY, W.shape, padding=1),
    "conv2d 1x1": lambda: kernels.conv2d(X, W1), "dense": lambda: kernels.dense(A, B),
    "dense_dgrad": lambda: kernels.dense_dgrad(A, B), "dense_wgrad": lambda: kernels.dense_wgrad(A, A),
    "matmul": lambda: kernels.matmul(A, B),
    "pool": lambda: kernels.maxpool2d(X, 3, stride=2)[0], "average": lambda: kernels.avgpool2d(X, 3, stride=2),
    "pool backward": lambda: kernels.maxpool2d_backward(DY, np.zeros(DY.shape, np.uint8), X.shape, 1, stride=1),
    "average backward": lambda: kernels.avgpool2d_backward(DY, X.shape, 1, stride=1),
    "lrn": lambda: kernels.lrn(X, 5, 1e-4, 0.75, 1.0),
    "lrn backward": lambda: kernels.lrn_backward(DY, X, X, 5, 1e-4, 0.75, 1.0),
    "relu": lambda: kernels.relu(X), "relu backward": lambda: kernels.relu_backward(DY, X),
    "bias and relu backward": lambda: kernels.bias_relu_backward(DY, X)[1],
    "dropout": lambda: kernels.dropout(X, 0.5, seed=0)[0],
    "dropout backward": lambda: kernels.dropout_backward(DY, np.ones(X.shape, np.uint8), 0.5),
    "loss": lambda: kernels.softmax_cross_entropy(X.reshape(-1, 64), np.zeros(X.size // 64, int))[0],
    "update": lambda: kernels.momentum_update(X.flatten(), DY.flatten(), DY.flatten(), lr=0.1) or X,
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_kernels_call_and_compute_the_same(operation, hook):
    want = operation()
    words = hook(10.0)
    repeated(operation)()
    np.testing.assert_array_equal(operation(), want)
    assert words[CALLS] >= 3
    kernels.set_progress(0)
    calls = int(words[CALLS])
    operation()
    assert words[CALLS] == calls


def test_calls_are_no_closer_than_asked(hook):
    begin, words = time.monotonic_ns(), hook(200.0)
    repeated(OPERATIONS["conv2d"])()
    assert 3 < words[CALLS] <= 1 + (time.monotonic_ns() - begin) / 200_000


def test_threads_call_one_at_a_time(hook):
    words, before = hook(1.0), kernels.num_threads()
    kernels.set_num_threads(3)
    try:
        repeated(OPERATIONS["conv2d"])()
        others = [threading.Thread(target=repeated(OPERATIONS["dense"])) for _ in range(2)]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join()
    finally:
        kernels.set_num_threads(before)
    assert words[CALLS] > 10
    assert words[TOGETHER] == 0


PROGRAM = """
import numpy as np, kernels
from numba import cfunc, carray, types
@cfunc(types.void(types.CPointer(types.int64)))
def count(pointer):
    pointer[0] += 1
calls = np.zeros(1, np.int64)
kernels.set_progress(count.address, calls.ctypes.data, 5.0)
a = np.ones((512, 512), np.float32)
for _ in range(20):
    kernels.dense(a, a)
print("called", calls[0] > 3)
"""


def test_cached_kernels_find_the_hook_in_another_process():
    for _ in range(2):
        done = python(PROGRAM, environment())
        assert done.stdout.strip() == "called True", done.stderr


@pytest.mark.parametrize(("address", "every_us"), [(-1, 50.0), (1, 0), (1, -2.0), (1, float("nan"))])
def test_a_hook_that_makes_no_sense(address, every_us):
    with pytest.raises(ValueError, match="set_progress: expected an address and a positive interval"):
        kernels.set_progress(address, 0, every_us)
