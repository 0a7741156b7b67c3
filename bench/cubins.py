"""The GPU's kernels as machine code, made without a GPU: registers, memory and instructions of every build of a room.

NVRTC compiles, through cuda-bindings or else CuPy; NVIDIA's nvdisasm shows the instructions.
"""

import contextlib
import functools
import math
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bench.processes import spread
from mpilayer.base.errors import UserError

ARCHITECTURES = ("sm_90a", "sm_80")
MOST_REGISTERS = 255  # of a thread
SIZES = {"BM", "BN", "A_VECTOR", "B_VECTOR", "D_PADDED", "VEC"}  # macros that are sizes: tiles, heads, packs
NEEDED = "nothing here compiles CUDA C++ | try: pip install 'cuda-bindings==13.0.*' 'nvidia-cuda-nvrtc==13.0.*'"
ENTRY = re.compile(r"Compiling entry function '(\w+)'")
NUMBERS = {"registers": r"Used (\d+) registers", "shared": r"(\d+) bytes smem", "stack": r"(\d+) bytes stack frame",
           "spill_stores": r"(\d+) bytes spill stores", "spill_loads": r"(\d+) bytes spill loads"}
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)", re.MULTILINE)
TENSOR, ASYNC, LOCAL = {"HMMA", "HGMMA"}, {"LDGSTS"}, {"LDL", "STL"}  # instructions


class Build(NamedTuple):
    """A room's source with macros ((name, value), ...), for an architecture."""

    room: str
    constants: tuple
    architecture: str = ARCHITECTURES[0]

    @property
    def name(self):
        """In words."""
        return " ".join([self.room, *(f"{name}={value}" for name, value in self.constants)])

    def macro(self, name):
        """Its value, or None."""
        return dict(self.constants).get(name)


def rooms():
    """Those with kernels for a GPU of their own."""
    from kernels.rooms import rooms

    return rooms(having="cuda.cu")


def launcher(room):
    """kernels.ROOM.cuda, which has BUILDS and REGISTERS."""
    from kernels.rooms import part

    return part(room, "cuda")


def builds(room, architecture=ARCHITECTURES[0]):
    """All of a room."""
    return [Build(room, tuple(sorted((constants | _hopper(constants, architecture)).items())), architecture)
            for constants in launcher(room).BUILDS]


def _hopper(constants, architecture):
    """What products are compiled with besides, where tensor cores read shared memory by themselves."""
    product = "BM" in constants and constants["MATH"] == "BF16"
    return {"WGMMA": 1} if product and architecture == ARCHITECTURES[0] else {}


def _kinds(of, without):
    """Builds that differ only in the macros `without`, together."""
    kinds = {}
    for build in of:
        kinds.setdefault(tuple(pair for pair in build.constants if pair[0] not in without), []).append(build)
    return kinds.values()


def _size(build):
    return math.prod(value for macro, value in build.constants if macro in SIZES)


def large(of):
    """Those of the largest sizes, for which registers are shortest: of products one for each MATH, of one pass or
    layout after the other in turn, of all else one of each kind.
    """
    largest, maths = [max(kind, key=_size) for kind in _kinds(of, SIZES)], {}
    for build in filter(is_product, largest):
        maths.setdefault(build.macro("MATH"), []).append(build)
    return [build for build in largest if not is_product(build)] + [
        same[turn % len(same)] for turn, same in enumerate(maths.values())]


def small(of):
    """For each PASS one of the smallest sizes, from the middle of their list: of products on tensor cores."""
    passes = {}
    for build in sorted(of, key=_size):
        passes.setdefault(build.macro("PASS"), []).append(build)
    smallest = [[build for build in builds if _size(build) == _size(builds[0])] for builds in passes.values()]
    return [builds[len(builds) // 2] for builds in smallest]


def _by_bindings(source, options):
    """(whether it compiled, log, cubin) by cuda-bindings."""
    from cuda.bindings import nvrtc

    def call(name, *arguments):
        status, *found = getattr(nvrtc, f"nvrtc{name}")(*arguments)
        if status and name != "CompileProgram":
            raise RuntimeError(f"nvrtc{name}: {status}")
        return found[0] if found else status

    def text(what):
        buffer = b" " * call(f"Get{what}Size", program)
        call(f"Get{what}", program, buffer)
        return buffer

    program = call("CreateProgram", source.encode(), b"kernel.cu", 0, [], [])
    status = call("CompileProgram", program, len(options), [option.encode() for option in options])
    found = not status, text("ProgramLog").rstrip(b"\0").decode(), b"" if status else text("CUBIN")
    nvrtc.nvrtcDestroyProgram(program)
    return found


def _by_cupy(source, options):
    """The same by CuPy."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        return False, nvrtc.getProgramLog(program), b""
    return True, nvrtc.getProgramLog(program), nvrtc.getCUBIN(program)


@functools.cache
def compiler():
    """A function of (source, options). Raises UserError if there is none."""
    with contextlib.suppress(Exception):  # a missing library is an error of cuda-pathfinder's own
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
        return _by_bindings
    with contextlib.suppress(Exception):
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
        return _by_cupy
    raise UserError(NEEDED)


def compile(source, options, architecture):
    """(cubin, the compiler's log) of CUDA C++. Raises RuntimeError with the log if it is wrong."""
    good, log, cubin = compiler()(source, (f"-arch={architecture}", *options, "-ftz=true", "--ptxas-options=-v"))
    if not good:
        raise RuntimeError(log)
    return cubin, log


def resources(log):
    """{kernel: {registers, shared, stack, spill_stores, spill_loads}} as ptxas tells them, in bytes."""
    _, *parts = ENTRY.split(log)
    return {kernel: {name: int(found[1]) if (found := re.search(pattern, told)) else 0
                     for name, pattern in NUMBERS.items()}
            for kernel, told in zip(parts[::2], parts[1::2], strict=True)}


@functools.cache
def disassembler():
    """Where nvdisasm is: on the PATH, in CUDA's folder, or in its wheel; None if nowhere."""
    cuda = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "bin"
    folders = [*site.getsitepackages(), *sys.path]
    wheels = [str(found.parent) for folder in folders if folder
              for found in Path(folder).glob("nvidia/cu*/bin/nvdisasm")]
    return shutil.which("nvdisasm", path=os.pathsep.join([os.environ.get("PATH", ""), str(cuda), *wheels]))


def instructions(cubin):
    """{kernel: Counter of instructions}, each as LDG and, with what follows, as LDG.E.128."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [disassembler(), "--print-code", "--no-dataflow", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True)
    _, *parts = re.split(r"^\.text\.(\w+):$", text.stdout, flags=re.MULTILINE)
    return {kernel: Counter(word for name, rest in INSTRUCTION.findall(code) for word in {name, name + rest})
            for kernel, code in zip(parts[::2], parts[1::2], strict=True)}


def source(build):
    """(its text, the options of the compiler)."""
    from kernels import gpu

    return gpu.source(build.room, build.constants), gpu.options(build.constants)


def inspect(build, text, options, look=False):
    """A row for each kernel of a build, with its instructions if asked to `look`; one more for what went wrong."""
    try:
        cubin, log = compile(text, options, build.architecture)
    except RuntimeError as error:
        return [_failed(build, f"does not compile: {error}")]
    seen, failed = {}, []
    try:
        seen = instructions(cubin) if look and disassembler() else {}
    except (OSError, subprocess.SubprocessError) as error:
        failed = [_failed(build, f"cannot be disassembled: {error}")]
    return failed + [{"build": build.name, "architecture": build.architecture, "kernel": kernel, **found,
                      **({"instructions": _few(seen[kernel])} if kernel in seen else {})}
                     for kernel, found in resources(log).items()]


def _failed(build, what):
    """The row that says so."""
    return {"build": build.name, "architecture": build.architecture, "error": what}


def _few(counted):
    """Those that tell something."""
    wanted = TENSOR | ASYNC | LOCAL
    return {name: count for name, count in sorted(counted.items()) if name.split(".")[0] in wanted}


def is_product(build):
    """Whether its instructions tell something, and it takes long."""
    return build.macro("MATH") is not None


def longest_first(builds):
    """Those that take long, and the others."""
    return sorted(builds, key=is_product, reverse=True)


def survey(chosen, *, look=is_product, workers=None):
    """Yield (build, its rows) as they come, from so many processes, by default one for each core."""
    compiler()
    calls = {build: (build, *source(build), look(build)) for build in longest_first(chosen)}
    for build, rows in spread(inspect, calls, workers=workers):
        yield build, [_failed(build, f"was not compiled: {rows}")] if isinstance(rows, Exception) else rows


def faults(build, rows, most):
    """What is wrong with a build's rows, in words: spills, more registers than its room allows, other instructions.

    Rooms give their limits for the first of ARCHITECTURES.
    """
    for row in rows:
        where = f"{row.get('kernel', '')} of {build.name} for {build.architecture}".strip()
        if "error" in row:
            yield f"{where} {row['error']}"
            continue
        limit = most if build.architecture == ARCHITECTURES[0] else MOST_REGISTERS
        yield from (f"{where} {what}" for what in _beyond(row, limit))
    yield from _lacking(build, [row["instructions"] for row in rows if "instructions" in row])


def _beyond(row, most):
    """What a kernel takes too much of."""
    if row["spill_stores"] or row["spill_loads"] or row["stack"]:
        yield f"spills: {row['spill_stores']} bytes out, {row['spill_loads']} in, stack {row['stack']}"
    if row["registers"] > most:
        yield f"takes {row['registers']} registers, its room allows {most}"
    if LOCAL & row.get("instructions", {}).keys():
        yield "has instructions on local memory"


def _lacking(build, counted):
    """Tensor cores and asynchronous copies, where they should be."""
    if not counted:
        return
    whole = build.macro("A_VECTOR") or build.macro("D_PADDED")
    for wanted, why in ((TENSOR, build.macro("MATH") in ("TF32", "BF16")), (ASYNC, whole)):
        if why and not any(wanted & found.keys() for found in counted):
            yield f"{build.name} for {build.architecture} has no {' or '.join(sorted(wanted))}"


def version():
    """Of NVRTC."""
    if compiler() is _by_cupy:
        from cupy.cuda import nvrtc

        return ".".join(map(str, nvrtc.getVersion()))
    from cuda.bindings import nvrtc

    return ".".join(map(str, nvrtc.nvrtcVersion()[1:]))
