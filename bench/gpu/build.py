"""Part `build`: every build of every room: for the GPU at hand, and kept; without one for two, and looked at."""

from bench import cubins
from bench.processes import spread

NEEDS_GPU = False
KEPT = "kept"  # in place of an architecture: that of the GPU at hand


def units(options):
    """{name: build}."""
    architectures = (KEPT,) if has_gpu() else cubins.ARCHITECTURES
    return {f"{architecture} {build.name}": build for architecture in architectures
            for room in cubins.rooms() if options.room in room for build in cubins.builds(room, architecture)}


def has_gpu():
    """Whether CuPy sees one; asking opens nothing."""
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:  # CuPy's, CUDA's, or it is not there
        return False


class FaultyBuildError(Exception):
    """A build is not as it should be."""

    def __init__(self, rows, wrong):
        self.rows = rows
        super().__init__("; ".join(wrong))


def measure(todo, options, found):
    """Yield (name, rows or exception) as they come, first those that all other parts need."""
    found["nvrtc"], found["disassembler"] = cubins.version(), cubins.disassembler()
    names = {build: name for name, build in todo.items()}
    kept = [build for build in cubins.longest_first(names) if build.architecture == KEPT]
    yield from spread(keep, {names[build]: (build,) for build in kept})
    for build, rows in cubins.survey([build for build in names if build.architecture != KEPT]):
        wrong = list(cubins.faults(build, rows, cubins.launcher(build.room).REGISTERS))
        yield names[build], FaultyBuildError(rows, wrong) if wrong else rows


def keep(build):
    """Compile for the GPU that is there; CuPy keeps what it has compiled on disk, where all later processes find it."""
    from kernels import gpu

    gpu.cupy().RawModule(code=gpu.source(build.room, build.constants), options=gpu.OPTIONS).compile()
    return []  # rows
