"""The CPU that stands in for a GPU: it computes what a GPU would, and finds what would go wrong there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import emulator
from tests.ranks import TOP

cupy = emulator.install()
SOURCE = Path(__file__).parent / "probe.cu"
MODES = [(order, early) for order in (0, 1, 3) for early in (False, True)]
F = np.float32


def kernel(name):
    return cupy.RawModule(code=SOURCE.read_text(), options=("-std=c++17",)).get_function(name)


def draw(*shape, dtype=F):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def outcomes(run):
    """What a function of the mode returns in every mode."""
    for order, early in MODES:
        with cupy.emulator.mode(order=order, early=early):
            yield run()


# ---- threads ---------------------------------------------------------------------------------------------------------


def tile_product(first=1, second=1):
    a, b = draw(2, 48, 48)
    c = cupy.empty((48, 48), F)
    kernel("tile_product")((3, 3), (16, 16), (*map(cupy.asarray, (a, b)), c, *map(np.int32, (48, first, second))))
    return np.allclose(c.get(), a @ b, atol=1e-4)


def test_threads_wait_at_barriers_in_every_order():
    assert all(outcomes(tile_product))


@pytest.mark.parametrize("missing", ["first", "second"])
def test_a_missing_barrier_is_found(missing):
    assert not all(outcomes(lambda: tile_product(**{missing: 0})))


def pipeline(patient=1, barrier=1):
    lines, total = draw(6, 128), cupy.empty(128, F)
    args = cupy.asarray(lines), total, *map(np.int32, (6, patient, barrier))
    kernel("pipeline")((1,), (128,), args)
    return np.allclose(total.get(), lines.sum(0), atol=1e-5)


def test_copies_land_between_issue_and_wait():
    assert all(outcomes(pipeline))


def test_a_wait_for_too_few_copies_is_found_when_they_are_late():
    with cupy.emulator.mode(early=False):
        assert not pipeline(patient=0)
    with cupy.emulator.mode(early=True):
        assert pipeline(patient=0)


def test_a_copy_over_what_is_still_read_is_found_when_it_is_early():
    with cupy.emulator.mode(early=True):
        assert not pipeline(barrier=0)


@pytest.mark.parametrize("which", [
    "divergence.*waits at __syncthreads, thread .* has exited",
    r"thread \(32, 0, 0\): reached a barrier while 32 threads wait at another kind, __syncthreads",
    r"mma_m16n8k8_tf32 of lanes ffffffff, thread \(5, 0, 0\) has exited",
    "__syncwarp of lanes ffffffff, thread .* waits at __shfl_sync",
    r"block \(0, 0, 0\), thread \(0, 0, 0\): __shfl_sync of lanes fffffffe, which leaves out the lane",
    "cp_async16: the shared address .* is not a multiple of 16",
    "cp_async8: the global address .* is not a multiple of 8",
    "cp_async16: .* does not lie in shared memory",
    r"kernel.cu:\d+: the address .* of 'struct float4' is not a multiple of 16",
    r"kernel.cu:\d+: index 8 of 'float \[8\]'",
    r"(writes|touches) memory that it must not, .* 12 bytes behind the last byte of argument 1, float32 \(13,\)",
    r"(reads|touches) memory that it must not, .* 6000 bytes before the first byte of argument 1, float32 \(13,\)",
    "(writes|touches) memory that it must not, .* 0 bytes behind the last byte of 128 bytes of dynamic shared memory",
    r"kernel.cu:\d+: divides 'int' by zero",
    "still runs after 1 seconds",
    r"wrote just outside argument 1, float32 \(13,\)",
    "ldmatrix_x2: the shared address .* is not a multiple of 16",
    "below the .* bytes of a thread's stack",
])
def test_mistakes_have_a_message(which):
    number = list(test_mistakes_have_a_message.pytestmark[0].args[1]).index(which)
    x = cupy.zeros(13, F)
    with cupy.emulator.mode(seconds=1), pytest.raises(RuntimeError, match=f"^kernel mistakes.*{which}"):
        kernel("mistakes")((2,), (64,), (np.int32(number), x, np.int32(0)), shared_mem=128)
    assert tile_product()  # and all goes on


def test_shared_memory_is_poisoned_before_every_block():
    x = cupy.zeros(128, np.uint32)
    kernel("unwritten")((2,), (32,), (x,), shared_mem=128)
    assert (x.get() == 2**32 - 1).all()


def test_blocks_and_warps_come_in_the_order_of_the_mode():
    def run():
        x = cupy.empty(12, np.int32)
        kernel("order")((3, 2), (64,), (x, cupy.zeros(1, np.int32)))
        return x.get().tolist()
    forward, _, reverse, _, shuffled, _ = outcomes(run)
    assert forward == list(range(12))
    assert reverse == forward[::-1]
    assert sorted(shuffled) == forward != shuffled


# ---- warps -----------------------------------------------------------------------------------------------------------


def test_shuffles():
    t = np.arange(32)
    sources = np.concatenate([(t + 5) % 32, t ^ 9, np.where(t + 3 < 32, t + 3, t), np.where(t % 8 < 3, t, t - 3),
                              t // 4 * 4 + 2])
    x, x8 = np.arange(100, 132, dtype=np.int32), draw(32, dtype=float)
    for y, y8 in outcomes(lambda: _shuffled(x, x8)):
        assert (y == x[sources]).all()
        assert (y8 == x8[sources]).all()


def _shuffled(x, x8):
    y, y8 = cupy.empty(160, np.int32), cupy.empty(160, float)
    kernel("shuffles")((1,), (32,), (cupy.asarray(x), y, cupy.asarray(x8), y8))
    return y.get(), y8.get()


def test_votes_of_warps_and_of_halves():
    x, y = np.random.default_rng(1).integers(-9, 9, 32).astype(np.int32), cupy.empty(256, np.uint32)
    bits = np.packbits(x % 2, bitorder="little").view(np.uint32)[0]
    for _ in outcomes(lambda: kernel("votes")((1,), (32,), (cupy.asarray(x), y))):
        got, halves = y.get().reshape(8, 32), x.reshape(2, 16)
        assert (got[0] == bits).all()
        assert (got[1] == 1).all()
        assert (got[2] == np.repeat([bits & 0xffff, bits & 0xffff0000], 16)).all()
        for row, reduced in zip(got[3:6].view(np.int32), (halves.sum(1), halves.min(1), halves.max(1)), strict=True):
            assert (row == np.repeat(reduced, 16)).all()
        assert (got[6, :8] == np.arange(8)[::-1]).all()
        assert (got[7] == (x % 2).sum() + 100).all()


def bfloat16_bits(x):
    return (x.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("bf16", [0, 1])
def test_matrix_products_have_the_layout_of_the_isa(bf16):
    depth, rng = 16 if bf16 else 8, np.random.default_rng(2)
    a, b, c = (rng.standard_normal(shape).astype(F) for shape in ((16, depth), (depth, 8), (16, 8)))
    group, place = np.arange(32)[:, None] // 4, np.arange(32)[:, None] % 4
    i = np.arange(8 if bf16 else 4)
    if bf16:  # the ISA's words for .bf16: a's rows and columns of element i, b's row
        rows, columns = group + 8 * (i // 2 % 2), 2 * place + i % 2 + 8 * (i // 4)
        depths = 2 * place + i[:4] % 2 + 8 * (i[:4] // 2)
        fragments = bfloat16_bits(a[rows, columns]), bfloat16_bits(b[depths, group + 0 * i[:4]])
        a, b = ((x.view(np.uint32) & 0xffff0000).view(F) for x in (a, b))
    else:
        rows, columns, depths = group + 8 * (i % 2), place + 4 * (i // 2), place + 4 * i[:2]
        fragments = a[rows, columns], b[depths, group + 0 * i[:2]]
        a, b = ((x.view(np.uint32) & 0xffffe000).view(F) for x in (a, b))
    at = group + 8 * (i[:4] // 2), 2 * place + i[:4] % 2
    for got in outcomes(lambda: _product(*fragments, c[at], bf16)):
        np.testing.assert_allclose(got, (c + a @ b)[at], rtol=1e-5, atol=1e-5)


def _product(a, b, c, bf16):
    d = cupy.asarray(c)
    a, b = (cupy.asarray(np.ascontiguousarray(x).view(np.uint32)) for x in (a, b))
    kernel("fragments")((1,), (32,), (a, b, d, np.int32(bf16)))
    return d.get()


def test_ldmatrix():
    rows, into = np.arange(256, dtype=np.uint16).reshape(32, 8), cupy.empty((32, 12), np.uint32)
    kernel("matrices")((1,), (32,), (cupy.asarray(rows), into, np.int32(48)), shared_mem=32 * 48)
    got = into.get().view(np.uint16).reshape(32, 12, 2)
    for lane, fragment in enumerate(got):
        plain = [rows[8 * m + lane // 4, [lane % 4 * 2, lane % 4 * 2 + 1]] for m in range(4)]
        transposed = [rows[[8 * m + lane % 4 * 2, 8 * m + lane % 4 * 2 + 1], lane // 4] for m in range(4)]
        assert (fragment == [*plain, *transposed, *plain[:2], *transposed[:2]]).all()


def test_tf32_rounds_to_nearest_and_ties_away_from_zero():
    x = np.array([1, 1 + 2**-11, -1 - 2**-11, 1 + 2**-12, 3e38, np.inf, 0, 1 + 2**-11 - 2**-23], F)
    y = cupy.empty(8, np.uint32)
    kernel("rounded")((1,), (8,), (cupy.asarray(x), y))
    want = np.array([1, 1 + 2**-10, -1 - 2**-10, 1, 3e38, np.inf, 0, 1], F)
    assert np.allclose(y.get().view(F), want, rtol=1e-7 * (x == 3e38) + 4e-4 * (x == 3e38))


def test_arithmetic():
    y = cupy.empty(30, float)
    kernel("arithmetic")((1,), (32,), (cupy.asarray(np.array([4, 3, 1.1], F)), y))
    assert y.get().tolist() == [5, 8, 100, 7, 9, 1, 4, 6, 8, 31, 4, 3, -15, 2**31, 0x3f800000, 2, 3, 2, 3, 0.5, 1, 0,
                                10, 2, 0x77665544, 4, 255, 1.5, 0, 2.5]


# ---- launches --------------------------------------------------------------------------------------------------------


def test_scalars_arrive_as_the_parameters_say():
    three = np.zeros((), [("x", "f4"), ("y", "i4", 2)])
    three["x"], three["y"] = 1.5, (1, 2)
    x = cupy.empty(9, float)
    kernel("scalars")((1,), (1,), (np.int32(-1), np.uint32(2**31), -(2**40), F(0.1), 0.1, True, three[()], None, x))
    assert x.get().tolist() == [-1, 2**31, -(2**40), float(F(0.1)), 0.1, 1, 1.5, 2, 1]


X = cupy.zeros(8, F)


@pytest.mark.parametrize(("args", "message"), [
    ((X, F(1), X), "takes 4 arguments, given are 3"),
    ((X, 1.0, X, np.int32(8)), "argument 1 is float64 of 8 bytes, the kernel takes a floating number of 4"),
    ((X, F(1), X, 8), "argument 3 is int64 of 8 bytes, the kernel takes an integer of 4 bytes"),
    ((X, F(1), X, F(8)), "argument 3 is float32"),
    ((X, X, X, np.int32(8)), "argument 1 is an array, the kernel takes a floating number"),
    ((F(1), F(1), X, np.int32(8)), "argument 0 is float32 of 4 bytes, the kernel takes a pointer"),
    ((np.zeros(8, F), F(1), X, np.int32(8)), "argument 0 is an array of the host"),
    ((X, F(1), "x", np.int32(8)), "Unsupported type <class 'str'>"),
])
def test_arguments_must_be_what_the_kernel_takes(args, message):
    with pytest.raises(TypeError, match=message):
        kernel("add")((1,), (32,), args)


@pytest.mark.parametrize(("name", "grid", "block", "shared"), [
    ("add", (1,), (1025,), 0), ("add", (1,), (32, 32, 2), 0), ("add", (0,), (32,), 0), ("add", (1,), (32,), 49153),
    ("pipeline", (1,), (129,), 0), ("add", (1, 65536), (32,), 0),
])
def test_launches_must_fit(name, grid, block, shared):
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE"):
        kernel(name)(grid, block, (X, F(1), X, np.int32(8)), shared_mem=shared)


def test_much_shared_memory_must_be_asked_for():
    """What a source declares counts, and what one has asked for holds for all who launch the kernel."""
    code = ('extern "C" __global__ void turn(int* x, int n) { __shared__ int some[64]; int i = threadIdx.x;'
            ' some[i] = x[i]; __syncthreads(); x[i] = some[(i + n) % 64]; }')
    module = cupy.RawModule(code=code)
    first, second = module.get_function("turn"), module.get_function("turn")
    x = cupy.asarray(np.arange(64, dtype=np.int32))

    def launch(bytes):
        second((1,), (64,), (x, np.int32(1)), shared_mem=bytes)

    assert first.shared_size_bytes == 256
    launch((48 << 10) - 256)
    with pytest.raises(RuntimeError, match="INVALID_VALUE"):
        launch(48 << 10)
    with pytest.raises(RuntimeError, match="INVALID_VALUE"):
        first.max_dynamic_shared_size_bytes = 227 << 10
    first.max_dynamic_shared_size_bytes = (227 << 10) - 256
    launch((227 << 10) - 256)
    assert cupy.asnumpy(x).tolist() == [*range(2, 64), 0, 1]


def test_sources_that_do_not_compile_say_where():
    with pytest.raises(cupy.cuda.compiler.CompileException, match=r"kernel\.cu:2:"):
        cupy.RawModule(code='extern "C" __global__ void f(int* x) {\n  x[0] = y; }').get_function("f")
    with pytest.raises(RuntimeError, match="named symbol not found: g; there are .*add"):
        kernel("g")


def test_processes_that_build_at_once_share_one_library(tmp_path):
    program = ("import cupy\ncode = 'extern \"C\" __global__ void f(int* x) { x[0] = N; }'\n"
               "x = cupy.empty(1, 'i4')\n"
               "cupy.RawModule(code=code, options=('-DN=7',)).get_function('f')((1,), (1,), (x,))\n"
               "print(int(x[0]), cupy.emulator.current.order, cupy.emulator.current.streams)")
    env = os.environ | emulator.environment(order=5, streams="late") | {"CUDA_CPU_CACHE": str(tmp_path)}
    running = [subprocess.Popen([sys.executable, "-c", program], env=env, cwd=TOP, stdout=subprocess.PIPE, text=True)
               for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in running] == ["7 5 late\n"] * 3
    assert len(list(tmp_path.glob("*.so"))) == 1


def test_a_machine_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Exception, match=r"there is no no-such-compiler \| try: apt-get install g") as found:
        cupy.RawModule(code='extern "C" __global__ void nothing() { int once = 1; }').get_function("nothing")
    assert found.type.__name__ == "CompileError"
