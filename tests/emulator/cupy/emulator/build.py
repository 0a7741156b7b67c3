"""From the text of CUDA kernels to a shared library that runs them on this machine's CPU."""

import ctypes
import fcntl
import functools
import hashlib
import os
import pathlib
import platform
import re
import subprocess
import tempfile

HEADERS = pathlib.Path(__file__).resolve().parents[2]
FLAGS = ("-std=c++17", "-O1", "-march=native", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique",
         "-fno-strict-aliasing", "-fno-ipa-reference", "-U_FORTIFY_SOURCE", "-w",
         "-fsanitize=alignment,bounds,integer-divide-by-zero", "-fno-sanitize-recover=all", "-fstack-clash-protection")
LAUNCHER = """
extern "C" __attribute__((visibility("default"))) int launch_{name}(emulator::Request* request, void** values) {{
    return emulator::launch("{name}", {name}, request, values);
}}
extern "C" __attribute__((visibility("default"))) const void* signature_{name}(int* count, int* bound, int* shared) {{
    *bound = emulator::first_of({bounds});
    *shared = emulator::declared_shared();
    return emulator::signature({name}, count);
}}
"""
MESSAGE_BYTES = 2000
SHARED_BY_DEFAULT = 48 << 10  # of a block, declared or dynamic


class CompileError(Exception):
    """A source does not compile."""


class Request(ctypes.Structure):
    """What is asked of a kernel; cuda_cpu/block.h has the same fields."""

    _fields_ = (("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("dynamic_bytes", ctypes.c_uint64),
                ("stack_bytes", ctypes.c_uint64), ("dynamic", ctypes.c_void_p), ("stacks", ctypes.c_void_p),
                ("order", ctypes.c_uint64), ("early", ctypes.c_int32), ("seconds", ctypes.c_int32),
                ("message", ctypes.c_void_p), ("message_bytes", ctypes.c_int64), ("fault", ctypes.c_uint64))


class Parameter(ctypes.Structure):
    """A parameter of a kernel: its kind (p pointer, f floating, i integer, s struct) and size."""

    _fields_ = (("kind", ctypes.c_char), ("bytes", ctypes.c_int32), ("alignment", ctypes.c_int32))


class Kernel:
    """One kernel of a library."""

    def __init__(self, library, name):
        self.name = name
        self._launch = getattr(library, f"launch_{name}")
        signature = getattr(library, f"signature_{name}")
        signature.restype = ctypes.POINTER(Parameter)
        count, bound, shared = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        first = signature(*map(ctypes.byref, (count, bound, shared)))
        self.parameters = [(first[i].kind.decode(), first[i].bytes, first[i].alignment) for i in range(count.value)]
        self.bound, self.shared = bound.value, shared.value
        self.most_dynamic = SHARED_BY_DEFAULT - self.shared

    def launch(self, request, values):
        """Run it; the message of what went wrong, or an empty string."""
        message = ctypes.create_string_buffer(MESSAGE_BYTES)
        request.message, request.message_bytes = ctypes.addressof(message), MESSAGE_BYTES
        failed = self._launch(ctypes.byref(request), (ctypes.c_void_p * max(1, len(values)))(*values))
        return message.value.decode(errors="replace") if failed else ""


def without_comments(text):
    """C++ text with its comments blanked; lines stay."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)


def closing(text, start):
    """Index behind the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index + 1
    raise CompileError(f"a bracket does not close: {text[start:start + 80]!r}")


def program():
    """The compiler: CXX, or g++."""
    return os.environ.get("CXX") or "g++"


def compiler(*arguments, **more):
    """Run the compiler; its output. Raises CompileError."""
    command = [program(), *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    except FileNotFoundError:
        raise CompileError(f"there is no {command[0]} | try: apt-get install g++, or set CXX") from None
    if run.returncode:
        raise CompileError(run.stderr)
    return run.stdout


@functools.cache
def preprocessed(code):
    """What is left of a source where macros and conditions have been followed; files included stay out."""
    alone = re.sub(r"^\s*#\s*include.*$", "", code, flags=re.MULTILINE)
    return compiler("-E", "-P", "-x", "c++", "-", input=alone)


def signatures(code):
    """Name of each `extern "C" __global__` kernel of a source, with the arguments of its __launch_bounds__."""
    text, found = without_comments(preprocessed(code)), {}
    for start in re.finditer(r'extern\s*"C"\s*__global__\s', text):
        at, bounds = start.end(), ""
        while word := re.compile(r"\s*(\w+)\s*").match(text, at):
            at = word.end()
            if word[1] == "__launch_bounds__":
                end = closing(text, at)
                bounds, at = text[at + 1:end - 1], end
            elif text[at:at + 1] == "(":
                if text[closing(text, at):].lstrip().startswith("{"):
                    found[word[1]] = bounds
                break
    return found


def macros(options):
    """The macros among NVRTC's options as lines that stand before the source but behind our own headers."""
    pairs = (option[2:].partition("=") for option in options if option.startswith("-D"))
    return "".join(f"#define {name} {value or 1}\n" for name, _, value in pairs)


def included(code, folders, seen):
    """The text of all files a source includes in quotation marks, and they themselves."""
    for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', code, re.MULTILINE):
        for folder in folders:
            file = pathlib.Path(folder, name)
            if file.is_file() and file.resolve() not in seen:
                seen.add(file.resolve())
                text = file.read_text()
                yield text
                yield from included(text, [file.parent, *folders], seen)
                break


@functools.cache
def processor():
    """What the compiler's output depends on besides its input."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = platform.processor()
    lines = set(re.findall(r"^(?:flags|Features|model name)\b.*", text, re.MULTILINE))
    return platform.machine() + "".join(sorted(lines))


def cache_folder():
    """Where libraries are kept: CUDA_CPU_CACHE, or a folder of this user's under the system's for temporary files."""
    default = pathlib.Path(tempfile.gettempdir(), f"cuda-cpu-{os.getuid()}")
    folder = pathlib.Path(os.environ.get("CUDA_CPU_CACHE") or default)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise CompileError(f"{folder} belongs to somebody else; set CUDA_CPU_CACHE")
    return folder


def whole_text(code, options=()):
    """The source between the header and its launchers. Its names are its own: inline functions share nothing."""
    launchers = "".join(LAUNCHER.format(name=name, bounds=bounds) for name, bounds in signatures(code).items())
    return (f'#include "cuda_cpu.h"\n{macros(options)}namespace {{\n#line 1 "kernel.cu"\n{code}\n}}\n'
            f'#line 1 "launchers"\n{launchers}')


def made(target, make):
    """A file of the cache: if it is not there, make(path) makes it. One process does, the others wait for it; whoever
    looks for it sees all of it or nothing.
    """
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=target.parent) as workplace:
                    os.replace(make(pathlib.Path(workplace, target.name)), target)
    return target


def key(*parts):
    """What stands for these texts, and for the compiler, in the names of files."""
    return hashlib.sha256("\0".join([*parts, *FLAGS, os.environ.get("CXX", ""), processor()]).encode()).hexdigest()[:32]


@functools.cache
def header():
    """The folder of our own header, compiled: half of the time that a kernel would take; and what stands for it."""
    ours = key(*(file.read_text() for file in [*sorted(HEADERS.glob("cuda_cpu*/*.h")), HEADERS / "cuda_cpu.h"]))
    target = cache_folder() / ours / "cuda_cpu.h.gch"

    def make(path):
        compiler(*FLAGS, "-x", "c++-header", str(HEADERS / "cuda_cpu.h"), "-o", str(path))
        return path

    return made(target, make).parent


def compile_to(path, text, folders):
    """Compile a text, which includes from folders, to a library."""
    includes = [f"-I{folder}" for folder in [header(), HEADERS, *folders]]
    source, unlinked = path.with_suffix(".cpp"), path.with_suffix(".o")
    source.write_text(text)
    # Linked by itself, for with the flags for its checks the compiler would add a library for them.
    compiler(*FLAGS, *includes, "-c", str(source), "-o", str(unlinked))
    compiler("-shared", str(unlinked), "-o", str(path))
    return path


@functools.cache
def library(code, options=()):
    """The kernels of a source by name, compiled if no process has done so before."""
    folders = [option[2:] for option in options if option.startswith("-I")]
    text = whole_text(code, options)
    target = cache_folder() / f"{key(text, *included(code, folders, set()), *folders, header().name)}.so"
    loaded = ctypes.CDLL(str(made(target, lambda path: compile_to(path, text, folders))))
    return {name: Kernel(loaded, name) for name in signatures(code)}
