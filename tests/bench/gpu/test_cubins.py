"""Every room's kernels compile for GPUs, spill nothing, take no more registers than their room allows, and have the
instructions that make them fast. Needs NVRTC and nvdisasm (the extra `test`), and no GPU.

Compiling takes long: this has, for sm_90a, the builds of the largest sizes (cubins.large), of products one for each way
to multiply; for sm_80 one of the smallest of each pass that multiplies. `python -m bench gpu --parts build` has all.
"""

import re
import sys

import pytest

from bench import cubins
from kernels import gpu
from mpilayer.base.errors import UserError

NEWEST, OLDER = cubins.ARCHITECTURES
KERNEL = re.compile(r"__global__ void __launch_bounds__\(.*?\)\s+(\w+)\(")
SPILLING = """
extern "C" __global__ void spills(float* x, int n) {
    float held[64];
    for (int i = 0; i < 64; i++) held[i] = x[i];
    for (int i = 0; i < n; i++) held[(i * 7) % 64] += held[i % 64];
    for (int i = 0; i < 64; i++) x[i] = held[i];
}"""
TOLD = """ptxas info    : 50 bytes gmem
ptxas info    : Compiling entry function 'multiply' for 'sm_90a'
ptxas info    : Function properties for multiply
ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 184 registers, used 1 barriers, 1536 bytes smem, 16 bytes cumulative stack size
ptxas info    : Compiling entry function 'sum_parts' for 'sm_90a'
ptxas info    : Function properties for sum_parts
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
"""


def chosen():
    """All builds of this test, and those of them whose instructions are looked at."""
    newest = [build for room in cubins.rooms() for build in cubins.large(cubins.builds(room, NEWEST))]
    older = [build for room in cubins.rooms() for build in cubins.small(cubins.builds(room, OLDER))
             if build.macro("MATH")]
    return newest + older, {build for build in newest if build.macro("MATH") in ("TF32", "BF16")}


@pytest.fixture(scope="module")
def surveyed():
    builds, looked = chosen()
    return dict(cubins.survey(builds, look=looked.__contains__, workers=2))


@pytest.mark.parametrize("room", cubins.rooms())
def test_kernels_compile_and_stay_in_registers(room, surveyed):
    most, mine = cubins.launcher(room).REGISTERS, {b: rows for b, rows in surveyed.items() if b.room == room}
    compiled = {(row["kernel"], row["architecture"]) for rows in mine.values() for row in rows if "kernel" in row}
    assert {kernel for kernel, architecture in compiled if architecture == NEWEST} == set(
        KERNEL.findall(gpu.source(room)))
    assert (OLDER in {architecture for _, architecture in compiled}) == any(build.macro("MATH") for build in mine)
    assert [fault for build, rows in mine.items() for fault in cubins.faults(build, rows, most)] == []


def test_tensor_cores_and_copies_in_the_background_are_used(surveyed):
    assert cubins.disassembler(), "there is no nvdisasm | try: pip install nvidia-cuda-nvdisasm"
    _, looked = chosen()
    assert {(build.room, build.macro("MATH")) for build in looked} == {
        (room, math) for room in ("attention", "conv2d", "matmul") for math in ("TF32", "BF16")}
    for build in looked:
        names = {name for row in surveyed[build] for name in row.get("instructions", ())}
        if build.macro("WGMMA"):
            assert {f"HGMMA.64x{build.macro('BN')}x16.F32.BF16"} <= names
            assert "HMMA" not in names
        else:
            assert {"HMMA.1688.F32.TF32" if build.macro("MATH") == "TF32" else "HMMA.16816.F32.BF16"} <= names
        assert any(name.startswith("LDGSTS.E") and name.endswith(".128") for name in names)


def test_every_room_with_a_source_says_what_it_may_take():
    for room in cubins.rooms():
        assert 0 < cubins.launcher(room).REGISTERS <= 255
        builds = cubins.builds(room)
        assert len(set(builds)) == len(builds) > 0


def test_those_chosen_are_of_every_kind():
    for room in cubins.rooms():
        builds = cubins.builds(room)
        chosen = {macro: {build.macro(macro) for build in cubins.large(builds)} for macro in dict(builds[0].constants)}
        for macro in ("MATH", "PASS", "A_BY_K", "B_BY_K", "T", "S"):
            assert chosen.get(macro, {None}) == {build.macro(macro) for build in builds}
        assert {build.macro("PASS") for build in cubins.small(builds)} == {build.macro("PASS") for build in builds}
        assert all(build.macro("MATH") in (None, "TF32") for build in cubins.small(builds))


def test_what_ptxas_tells_is_read():
    told = cubins.resources(TOLD)
    assert told == {"multiply": {"registers": 184, "shared": 1536, "stack": 16, "spill_stores": 8, "spill_loads": 12},
                    "sum_parts": {"registers": 32, "shared": 0, "stack": 0, "spill_stores": 0, "spill_loads": 0}}


def test_the_gate_sees_what_it_forbids():
    build = cubins.Build("loss", (("MATH", "TF32"), ("A_VECTOR", 1)))
    faults = " ".join(cubins.faults(build, cubins.inspect(build, SPILLING, gpu.OPTIONS, look=True), most=1))
    for text in ("spills of loss MATH=TF32 A_VECTOR=1 for sm_90a spills: 0 bytes out", "stack 256", "its room allows 1",
                 "instructions on local memory", "has no HGMMA or HMMA", "has no LDGSTS"):
        assert text in faults


def test_what_cannot_be_disassembled_is_told(monkeypatch, tmp_path):
    build = cubins.builds("loss")[0]
    for program in ("false", str(tmp_path / "missing")):
        monkeypatch.setattr(cubins, "disassembler", lambda program=program: program)
        failed, *rows = cubins.inspect(build, *cubins.source(build), look=True)
        assert {row["kernel"] for row in rows} == {"softmax", "softmax_cross_entropy"}
        (fault,) = cubins.faults(build, [failed, *rows], 255)
        assert fault.startswith(f"of {build.name} for sm_90a cannot be disassembled: ")


def test_a_compiler_that_dies_is_told(monkeypatch):
    died, good = builds = cubins.builds("loss")[:2]
    monkeypatch.setattr(cubins, "spread", lambda function, calls, workers: [
        (build, RuntimeError("its process ended with exit status -11") if build == died else []) for build in calls])
    rows = dict(cubins.survey(builds))
    assert rows[good] == []
    (fault,) = cubins.faults(died, rows[died], 255)
    assert fault == f"of {died.name} for sm_90a was not compiled: its process ended with exit status -11"


def test_what_does_not_compile_is_told():
    build = cubins.Build("loss", ())
    (row,) = cubins.inspect(build, "extern \"C\" __global__ void broken() { nonsense; }", gpu.OPTIONS)
    (fault,) = cubins.faults(build, [row], 255)
    assert fault.startswith("of loss for sm_90a does not compile: ")
    assert '"nonsense" is undefined' in fault


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    cubins.compiler.cache_clear()
    for module in ("cuda.bindings", "cuda.bindings.nvrtc", "cupy.cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    try:
        with pytest.raises(UserError, match="pip install 'cuda-bindings==13.0"):
            cubins.compiler()
    finally:
        cubins.compiler.cache_clear()
