"""What this machine and this MPI are like, and what is not as it should be: `python -m mpilayer.info`."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from mpilayer import comm, env
from mpilayer.errors import UserError


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu():
    """Name of the first GPU that CuPy can use, or why there is none."""
    if not _version("cupy-cuda13x"):
        return "none used: cupy is not installed"
    import cupy

    if not cupy.cuda.is_available():
        return "none: no driver"
    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def _numba_cache():
    """(folder where the kernels' machine code is kept, whether it can be written)."""
    import kernels

    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(kernels.__file__).parent)
    return folder, os.access(folder, os.W_OK)


def environment(ranks):
    """Facts for run.json and for print: a dictionary of strings and numbers, the same keys on every rank."""
    from kernels import micro

    MPI = ranks.MPI
    levels = {MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled", MPI.THREAD_SERIALIZED: "serialized",
              MPI.THREAD_MULTIPLE: "multiple"}
    nodes = set(ranks.gather(MPI.Get_processor_name()))
    return {
        "mpi": MPI.Get_library_version().splitlines()[0].strip("\x00 \t"),
        "mpi_standard": ".".join(map(str, MPI.Get_version())),
        "thread_level": levels[MPI.Query_thread()],
        "ranks": ranks.size, "nodes": len(nodes), "ranks_per_node": ranks.node.size, "cores_per_node": ranks.cores,
        "oversubscribed": ranks.crowded,
        "processor": _processor(), "instruction_set": micro.isa(),
        "python": platform.python_version(), "system": platform.platform(),
        **{package: _version(package) for package in ("mpilayer", "mpi4py", "numpy", "numba", "h5py")},
    }


def hints(facts, cache, writable):
    """What is not as it should be, and what to do about it."""
    if facts["oversubscribed"]:
        yield (f"{facts['ranks_per_node']} ranks share {facts['cores_per_node']} cores: fine for trying things, slow for work"
               " | use one rank a core")
    if facts["ranks"] == 1:
        yield "one rank only | start several: mpiexec -n 4 python -m mpilayer.info"
    if facts["instruction_set"] == "plain":
        yield "the kernels use neither AVX-512 nor AVX2 here: expect a fraction of the speed"
    if not writable:
        yield f"the kernels cannot be cached in {cache}: every start compiles | set NUMBA_CACHE_DIR to a folder you can write"


def show(ranks):
    """Print everything, on rank 0."""
    from rich.console import Console
    from rich.table import Table

    facts = environment(ranks)
    if ranks.rank > 0:
        return
    cache, writable = _numba_cache()
    table = Table(show_header=False, title="mpilayer on this machine")
    for name, value in {**facts, "gpu": _gpu(), "kernel_cache": f"{cache} ({'writable' if writable else 'read-only'})"}.items():
        table.add_row(name.replace("_", " "), str(value))
    for name, (_, meaning) in env.VARIABLES.items():
        table.add_row(name, f"{os.environ.get(name, 'not set')}   ({meaning})")
    console = Console(highlight=False)
    console.print(table)
    for hint in hints(facts, cache, writable):
        console.print(f"hint: {hint}")


def main():
    """Entry point."""
    try:
        ranks = comm.start()
    except UserError as error:
        raise SystemExit(f"mpilayer: {error}" if str(error) else 2) from None
    with ranks.stopping_together():
        show(ranks)


if __name__ == "__main__":
    sys.exit(main())
