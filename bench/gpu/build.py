"""Part `build`: every build of every room: for the GPU at hand, and kept; without one for two, and looked at."""

from bench import cubins
from bench.processes import spread

NEEDS_GPU = False


def units(options):
    """{name: build}."""
    return {f"{architecture} {build.name}": build for architecture in here() or cubins.ARCHITECTURES
            for room in cubins.rooms() if options.room in room for build in cubins.builds(room, architecture)}


def here():
    """(architecture,) of the GPU that CuPy sees, or () if there is none; asking opens nothing."""
    try:
        import cupy

        capability = cupy.cuda.Device(0).compute_capability
    except Exception:  # CuPy's, CUDA's, or it is not there
        return ()
    return ("sm_90a" if capability == "90" else f"sm_{capability}",)


class FaultyBuildError(Exception):
    """A build is not as it should be."""

    def __init__(self, rows, wrong):
        self.rows = rows
        super().__init__("; ".join(wrong))


def measure(todo, options, found):
    """Yield (name, rows or exception) as they come, first those that all other parts need."""
    found["nvrtc"], found["disassembler"] = cubins.version(), cubins.disassembler()
    names = {build: name for name, build in todo.items()}
    if here():
        yield from spread(keep, {names[build]: (build,) for build in cubins.longest_first(names)})
        return
    for build, rows in cubins.survey(list(names)):
        wrong = list(cubins.faults(build, rows, cubins.launcher(build.room).REGISTERS))
        yield names[build], FaultyBuildError(rows, wrong) if wrong else rows


def keep(build):
    """Compile for the GPU that is there; CuPy keeps what it has compiled on disk, where all later processes find it."""
    from kernels import gpu

    gpu.cupy().RawModule(code=gpu.source(build.room, build.constants), options=gpu.options(build.constants)).compile()
    return []  # rows
