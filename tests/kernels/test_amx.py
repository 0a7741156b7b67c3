"""AMX's tiles, on any processor: with a model of the registers, and as compiled for a processor that has them."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic, register_jitable

from kernels import amx
from kernels.bfloat16 import widen
from kernels.conv2d import check as conv2d
from kernels.conv2d import winograd
from kernels.dense import check as dense
from kernels.matmul.cpu import FEW_SHORT
from kernels.micro import ACCUMULATE, BFLOAT16, RELU
from tests.kernels.test_bfloat16 import SHORT, TARGET, as_pairs, random, shorts, source, within
from tests.kernels.test_micro import call
from tests.ranks import TOP, environment

REGISTERS, SHAPES, FAULTS = np.zeros((8, 16, 64), np.uint8), np.zeros(64, np.uint8), np.zeros(1, np.uint8)
REGISTERS_AT, SHAPES_AT, FAULTS_AT = (array.ctypes.data for array in (REGISTERS, SHAPES, FAULTS))


@intrinsic
def _pointer(typing, address):
    return types.CPointer(types.uint8)(types.intp), lambda context, builder, signature, values: builder.inttoptr(
        values[0], ir.PointerType())


@register_jitable
def memory(address, size):
    return carray(_pointer(address), size)


@register_jitable
def shape(t):
    """(rows, bytes of a row) of a register; a fault if it has none."""
    shapes = memory(SHAPES_AT, 64)
    rows, bytes_each = shapes[48 + t], shapes[16 + 2 * t]
    if rows == 0 or rows > 16 or bytes_each == 0 or bytes_each > 64:
        memory(FAULTS_AT, 1)[0] = 1
    return rows, bytes_each


@register_jitable
def register(t):
    return memory(REGISTERS_AT + 1024 * t, (16, 64))


@register_jitable
def configure(address):
    memory(SHAPES_AT, 64)[:] = memory(address, 64)
    memory(REGISTERS_AT, 8192)[:] = 0


@register_jitable
def clear(t):
    shape(t)
    register(t)[:] = 0


@register_jitable
def load(t, address, stride):
    rows, bytes_each = shape(t)
    register(t)[:] = 0
    for i in range(rows):
        register(t)[i, :bytes_each] = memory(address + i * stride, bytes_each)


@register_jitable
def store(t, address, stride):
    rows, bytes_each = shape(t)
    for i in range(rows):
        memory(address + i * stride, bytes_each)[:] = register(t)[i, :bytes_each]


@register_jitable
def multiply(c, a, b):
    (rows, wide), (tall, deep), (pairs, across) = shape(c), shape(a), shape(b)
    if rows != tall or deep != 4 * pairs or wide != across:
        memory(FAULTS_AT, 1)[0] = 1
    left, right, sums = register(a).view(np.uint16), register(b).view(np.uint16), register(c).view(np.float32)
    for m in range(rows):
        for k in range(pairs):
            for n in range(wide // 4):
                for each in range(2):
                    sums[m, n] += widen(left[m, 2 * k + each]) * widen(right[k, 2 * n + each])


@register_jitable
def release():
    memory(SHAPES_AT, 64)[:] = 0


@pytest.fixture(scope="module")
def tile(tmp_path_factory):
    """The Tile of a copy of the module, with this model in place of the instructions; nothing of it is kept on disk."""
    path = tmp_path_factory.mktemp("amx") / "amx_model.py"
    text = Path(amx.__file__).read_text().replace("cache=True", "cache=False")
    path.write_text(text.replace("inner = compiled.part()", "from numba.extending import register_jitable as inner"))
    spec = spec_from_file_location("amx_model", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for operation in (configure, clear, load, multiply, store, release):
        assert hasattr(module, operation.__name__)
        setattr(module, operation.__name__, operation)
    yield module.amx_tile()
    assert not FAULTS.any(), "the processor would have refused"


SIZES = [(1, 1, 1), (16, 16, 16), (17, 15, 17), (32, 32, 32), (33, 31, 15), (31, 17, 33), (70, 32, 48), (5, 32, 100)]


@pytest.mark.parametrize("mode", [0, RELU, BFLOAT16, BFLOAT16 | RELU, ACCUMULATE, ACCUMULATE | RELU])
@pytest.mark.parametrize(("rows", "columns", "half"), SIZES)
def test_tiles_of_every_kind(tile, mode, rows, columns, half):
    rng = np.random.default_rng(rows + mode)
    blocks = int(rng.integers(1, 4))
    a, b = shorts(rng, blocks, rows, 2 * half), shorts(rng, blocks, 2 * half, columns + 3)[:, :, :columns]
    left, right, bias = as_pairs(a, 2), as_pairs(b, 1), random(columns)
    around = random((rows + 1, columns + 2)).astype(SHORT if mode & BFLOAT16 else np.float32)
    before, c = around.copy(), around[:rows, :columns]
    offsets = [np.arange(blocks) * each.strides[0] for each in (left, right)]
    call(tile.address, (rows, columns, half, left.ctypes.data, left.strides[1], 4, right.ctypes.data, right.strides[1],
                        c.ctypes.data, c.strides[0], blocks, *(each.ctypes.data for each in offsets), mode,
                        bias.ctypes.data, 0, 0, 0))
    want = np.einsum("tik,tkj->ij", a.astype(np.float64), b.astype(np.float64))
    want += before[:rows, :columns] if mode & ACCUMULATE else bias
    got, want = c.astype(np.float64), np.maximum(want, 0) if mode & RELU else want
    assert (abs(got - want) <= 3e-5 + (2**-8 * abs(want) if mode & BFLOAT16 else 0)).all()
    around[:rows, :columns] = before[:rows, :columns]
    np.testing.assert_array_equal(around.view(np.uint8), before.view(np.uint8), "wrote outside of C")
    assert not FAULTS.any()


@pytest.fixture
def on_amx(tile, monkeypatch):
    """Products that have pairs in rows are made by this model."""
    monkeypatch.setattr(amx, "usable", lambda: True)
    monkeypatch.setattr(amx, "amx_tile", lambda: tile)
    monkeypatch.setattr(winograd, "ENABLED", False)


@pytest.mark.usefixtures("on_amx")
@pytest.mark.parametrize("M", [3, FEW_SHORT + 1])
def test_dense_layers(M):
    some = source(M)
    within(dense.passes(some((M, 75)), some((75, 41)), some(41), some((M, 41)), TARGET), dense.BOUND)
    assert REGISTERS.any()


@pytest.mark.usefixtures("on_amx")
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"dilation": 2, "padding": 1}])
def test_convolutions(options):
    within(conv2d.passes(source(0), (2, 9, 8, 37), (3, 3, 37, 20), TARGET, **options), conv2d.BOUND)


def test_what_is_compiled_for_a_processor_with_amx():
    program = ("import numba\nfrom kernels import amx\nkept = []\nplain = numba.cfunc\n"
               "def cfunc(*given, **options):\n"
               "    def keep(function):\n        kept.append(plain(*given)(function)); return kept[-1]\n"
               "    return keep\n"
               "amx.cfunc = cfunc\namx.amx_tile()\nprint(kept[0]._library.get_asm_str())")
    cpu = {"NUMBA_CPU_NAME": "sapphirerapids", "NUMBA_CPU_FEATURES": "+amx-tile,+amx-bf16,+avx512f,+avx512bf16"}
    found = subprocess.run([sys.executable, "-c", program], env=environment() | cpu, cwd=TOP, text=True,
                           capture_output=True, timeout=120)
    assert found.returncode == 0, found.stderr
    for instruction in ("ldtilecfg", "tilezero", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"):
        assert instruction in found.stdout, instruction
