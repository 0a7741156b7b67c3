"""Part `build`: every build of every room, for two architectures; where there is a GPU, for that one too, and kept."""

import concurrent.futures
import multiprocessing
import os

from bench import cubins

NEEDS_GPU = False


def units(options):
    """{name: build}."""
    rooms = [room for room in cubins.rooms() if options.room in room]
    found = {f"{build.architecture} {build.name}": build for room in rooms for architecture in cubins.ARCHITECTURES
             for build in cubins.builds(room, architecture)}
    kept = {f"kept {build.name}": build for room in rooms for build in cubins.builds(room)} if has_gpu() else {}
    return found | kept


def has_gpu():
    """Whether CuPy sees one; asking opens nothing."""
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount() > 0
    except Exception:  # CuPy's, CUDA's, or it is not there
        return False


def is_broken():
    """Other processes use the GPU."""
    return False


class FaultyBuildError(Exception):
    """A build is not as it should be."""

    def __init__(self, rows, wrong):
        self.rows = rows
        super().__init__("; ".join(wrong))


def measure(todo, options, found):
    """Yield (name, rows or exception) as they come."""
    found["nvrtc"], found["disassembler"] = cubins.version(), cubins.disassembler()
    compiled = {build: name for name, build in todo.items() if not name.startswith("kept ")}
    for build, rows in cubins.survey(list(compiled)) if compiled else ():
        wrong = list(cubins.faults(build, rows, cubins.launcher(build.room).REGISTERS))
        yield compiled[build], FaultyBuildError(rows, wrong) if wrong else rows
    yield from keep({name: build for name, build in todo.items() if name.startswith("kept ")})


def _keep(build):
    """Compile for the GPU that is there; CuPy keeps what it has compiled on disk, where all later processes find it."""
    from kernels import gpu

    gpu.cupy().RawModule(code=gpu.source(build.room, build.constants), options=gpu.OPTIONS).compile()


def keep(todo):
    """Yield (name, no rows, or the exception)."""
    if not todo:
        return
    workers = min(len(os.sched_getaffinity(0)), len(todo))
    with concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_keep, build): name for name, build in todo.items()}
        for done in concurrent.futures.as_completed(futures):
            yield futures[done], done.exception() or []
