import threading

import numpy as np
import pytest

import kernels
from kernels import threads
from kernels.conv2d import winograd
from tests.kernels.oracle import random
from tests.ranks import environment, python


@pytest.fixture
def several():
    """Sets the number of threads; one again afterwards."""
    before = kernels.num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)


def convolution(x_shape, w_shape, **options):
    x, w = random(x_shape), random(w_shape, 1)
    y = kernels.conv2d(x, w, random(w_shape[3:], 2), relu=True, **options)
    return [y, kernels.conv2d_dgrad(y, w, x_shape, **options), kernels.conv2d_wgrad(x, y, w_shape, **options)]


def dense(M, C, K):
    x, w = random((M, C)), random((C, K), 1)
    y = kernels.dense(x, w, random(K, 2), relu=True)
    return [y, kernels.dense_dgrad(y, w), kernels.dense_wgrad(x, y)]


def matmul(a_shape, b_shape, **options):
    return [kernels.matmul(random(a_shape), random(b_shape, 1), **options)]


def updated(w, g, v):
    kernels.momentum_update(w, g, v, lr=0.1, momentum=0.9, weight_decay=0.01)
    return [w, v]


def adam(w, g, m, v):
    kernels.adamw_update(w, g, m, v * v, lr=0.1, step=2)
    return w, m, v


def batch_norm(x):
    (mean, var), scales = kernels.batchnorm_statistics(x), random((2, x.shape[-1]))
    y, dy = kernels.batchnorm(x, mean, var, *scales, add=x, relu=True), x[::-1].copy()
    sums = kernels.batchnorm_wgrad(dy, x, mean, var, y=y)
    return [mean, var, y, dy, *sums, kernels.batchnorm_dgrad(dy, x, mean, var, scales[0], *sums)]


def attended(qkv, heads):
    y, lse = kernels.attention(qkv, heads)
    return [y, lse, kernels.attention_backward(y, qkv, y, lse)]


def embedded(dy, tokens):
    tables = np.empty((900, 31), np.float32), np.empty((60, 31), np.float32)
    kernels.embedding_backward(dy, tokens, *tables)
    return [*tables, kernels.embedding(tokens, *tables)]


X = random((5, 8, 8, 31))
OPERATIONS = {
    "transforms": lambda: convolution((5, 14, 13, 32), (3, 3, 32, 70), padding=1),
    "transforms in groups": lambda: convolution((3, 13, 13, 64), (5, 5, 32, 72), padding=2, groups=2),
    "a first layer": lambda: convolution((2, 61, 61, 3), (7, 7, 3, 33), stride=2, padding=3),
    "strided": lambda: convolution((5, 15, 14, 20), (3, 3, 20, 70), stride=2, padding=1),
    "tap by tap": lambda: convolution((5, 7, 7, 128), (3, 3, 128, 33), stride=2, padding=1),
    "dilated": lambda: convolution((5, 15, 14, 20), (3, 3, 20, 70), dilation=2, padding=3),
    "each channel alone": lambda: convolution((3, 33, 35, 70), (5, 5, 1, 70), stride=2, padding=2, groups=70),
    "one pixel": lambda: convolution((5, 9, 9, 200), (1, 1, 200, 70)),
    "one pixel, strided": lambda: convolution((5, 9, 9, 40), (1, 1, 40, 33), stride=2),
    "few rows": lambda: dense(5, 300, 150), "many rows": lambda: dense(300, 1100, 70),
    "crowded rows": lambda: dense(300, 1024, 70),
    "pools": lambda: [*kernels.maxpool2d(X, 3, stride=2, padding=1), kernels.avgpool2d(X, 3, stride=2),
                      kernels.maxpool2d_backward(*kernels.maxpool2d(X, 3, stride=1), X.shape, 3, stride=1),
                      kernels.avgpool2d_backward(X[:, :3, :3].copy(), X.shape, 3, stride=2)],
    "a norm": lambda: [kernels.lrn(X, 5, 1e-4, 0.75, 1.0), kernels.lrn_backward(X, X, X, 5, 1e-4, 0.75, 1.0)],
    "activations": lambda: [kernels.relu(X), kernels.relu_backward(X, -X), *kernels.bias_relu_backward(X, -X),
                            *kernels.dropout(X, 0.4, seed=1, first=2**64 - 100),
                            kernels.dropout_backward(X, (X > 0).astype(np.uint8), 0.4)],
    "batch norm": lambda: [*batch_norm(X), *batch_norm(random((7, 300)))],
    "layer norm": lambda: [*kernels.layernorm(X.reshape(-1, 31), X[0, 0, 0], X[0, 0, 1]), *kernels.layernorm_backward(
        X.reshape(-1, 31), X.reshape(-1, 31), X[0, 0].sum(1).repeat(40), X[0, 0].sum(1).repeat(40), X[0, 0, 0])],
    "gelu": lambda: [kernels.gelu(X), kernels.gelu_backward(X, X)],
    "attention": lambda: attended(random((3, 150, 3 * 4 * 10)), 4),
    "embedding": lambda: embedded(random((3, 50, 31)), np.arange(150).reshape(3, 50) % 7),
    "adamw": lambda: [*adam(*random((4, 9999)))],
    "squares": lambda: [np.array(kernels.sum_of_squares(X))],
    "a loss": lambda: kernels.softmax_cross_entropy(X.reshape(-1, 31)[:70], np.arange(70) % 31),
    "an update": lambda: updated(*(random(10_007, seed) for seed in range(3))),
    "a batch": lambda: matmul((5, 20, 30), (5, 30, 40)), "a transposed batch": lambda: matmul(
        (5, 30, 20), (5, 40, 30), transpose_a=True, transpose_b=True),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_threads_change_no_bit(operation, several):
    several(1)
    want = operation()
    for count in (2, 3, 7):
        several(count)
        for ours, theirs in zip(operation(), want, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_operations_go_every_way():
    assert winograd.wins((3, 3, 32, 70), (1, 1), 1, 14, 13)
    assert winograd.wins((5, 5, 32, 72), (1, 1), 2, 13, 13)
    assert winograd.wins((7, 7, 3, 33), (2, 2), 1, 31, 31)
    assert not winograd.wins((3, 3, 20, 70), (2, 2), 1, 8, 7)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 4, 5, 17])
def test_every_part_is_done_once(count, size, several):
    several(count)
    done, names = [], set()

    def work(first, last):
        done.extend(range(first, last))
        names.add(threading.get_ident())

    threads.parallel_for(size, work)
    assert sorted(done) == list(range(size))
    assert threading.get_ident() in names


def test_an_error_in_a_thread_is_raised_when_all_are_done(several):
    several(3)
    done = []

    def work(first, last):
        if first == 1:
            raise RuntimeError("part 1")
        done.append(first)

    with pytest.raises(RuntimeError, match="part 1"):
        threads.parallel_for(3, work)
    assert sorted(done) == [0, 2]


@pytest.mark.parametrize("count", [0, -1, 1.5, "2"])
def test_a_number_of_threads_that_is_none(count):
    with pytest.raises(ValueError, match="set_num_threads: the number of threads must be a positive int"):
        kernels.set_num_threads(count)


@pytest.mark.parametrize(("value", "shown"), [("3", "3"), ("", "1"), ("0", "KERNELS_NUM_THREADS=0: expected a"),
                                              ("two", "KERNELS_NUM_THREADS=two: expected a whole number from 1 to")])
def test_the_environment_says_how_many(value, shown):
    done = python("import kernels; print(kernels.num_threads())", environment(KERNELS_NUM_THREADS=value))
    assert shown in done.stdout + done.stderr
