"""What this machine and this MPI are like, and what is not as it should be: `python -m mpilayer.info`."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import numpy as np

from mpilayer.base import env
from mpilayer.base.cli import Parser
from mpilayer.base.errors import UserError
from mpilayer.gpu import device
from mpilayer.mpi import trials
from mpilayer.mpi.collectives import Calls
from mpilayer.mpi.job import job, library

VECTORS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512bf16", "avx512fp16", "amx-bf16", "neon", "sve")


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


def _cpu_features():
    """What of this processor's vector instructions the kernels, or kernels to come, can use."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return " ".join(name for name in VECTORS if features.get(name)) or "no vector instructions known here"


def _gpu():
    """What the GPU is that CuPy uses, or why there is none."""
    nothing = {"gpu": "none", "nvidia_driver": device.driver(), "cupy": _version("cupy-cuda13x")}
    if not Path("/dev/nvidiactl").exists() and "cupy" not in sys.modules:  # importing it takes a while
        return nothing
    try:
        return device.facts()
    except ImportError:
        return {**nothing, "gpu": "not used: cupy is not installed"}
    except Exception as error:  # CUDA's errors are of no kind that is known without CuPy
        return {**nothing, "gpu": f"not used: {type(error).__name__}: {error}"}


def _numba_cache():
    """(folder where Numba keeps a kernel's machine code, whether that is there already)."""
    from kernels.update import cpu

    folder = Path(cpu._momentum_update.stats.cache_path)
    return folder, any(folder.glob("*.nbc"))


def kernel_settings():
    """Instruction set and threads of the kernels. Raises UserError if an environment variable makes no sense."""
    from kernels import num_threads, vectors

    env.check()
    try:
        return {"instruction_set": vectors.isa(), "kernel_threads": num_threads()}
    except ValueError as error:
        variable = str(error).split("=")[0]
        raise UserError(f"{error} | try: unset {variable}") from None


def environment(ranks):
    """Facts for run.json and for print: a dictionary of strings and numbers, the same keys on every rank."""
    cache, compiled = _numba_cache()
    MPI = ranks.MPI
    levels = {MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled", MPI.THREAD_SERIALIZED: "serialized",
              MPI.THREAD_MULTIPLE: "multiple"}
    return {
        "mpi": library(MPI),
        "mpi_standard": ".".join(map(str, MPI.Get_version())),
        "thread_level": levels[MPI.Query_thread()],
        "ranks": ranks.size, "nodes": int(ranks.total(np.array([float(ranks.node.rank == 0)]))[0]),
        "ranks_per_node": int(ranks.most(ranks.node.size)), "cores_per_node": int(ranks.least(ranks.cores)),
        "oversubscribed": ranks.any(ranks.node.size > ranks.cores),
        "processor": _processor(), "cpu_features": _cpu_features(), **kernel_settings(),
        "numba_cache": str(cache), "kernels_compiled": compiled, **_gpu(),
        "cuda_aware_mpi": Calls(ranks).cuda_aware,
        "python": platform.python_version(), "system": platform.platform(),
        **{package: _version(package) for package in ("mpilayer", "mpi4py", "numpy", "numba", "h5py")},
    }


def hints(facts):
    """What is not as it should be, and what to do about it."""
    if facts["thread_level"] == "single":
        yield "this MPI allows no threads: it may not bear those of other libraries | try another MPI"
    if facts["oversubscribed"]:
        yield (f"{facts['ranks_per_node']} ranks share {facts['cores_per_node']} cores: fine for trying things, slow"
               " for work | use one rank a core")
    if facts["ranks"] == 1:
        yield "one rank only | start several: mpiexec -n 4 python -m mpilayer.info"
    if facts["instruction_set"] == "plain":
        yield "the kernels use neither AVX-512 nor AVX2 here: expect a fraction of the speed"
    elif facts["instruction_set"] == "avx2" and "avx512f" in facts["cpu_features"]:
        yield "the kernels use AVX2 where AVX-512 could be used | unset KERNELS_ISA"
    if not os.access(facts["numba_cache"], os.W_OK):
        yield (f"the kernels cannot be kept in {facts['numba_cache']}: every start compiles them"
               " | set NUMBA_CACHE_DIR to a folder you can write")
    elif not facts["kernels_compiled"]:
        yield "no kernel is compiled yet: the first start on this machine takes 10 to 30 seconds longer"
    if facts["gpu"].startswith("not used"):
        yield f"there is a GPU, {facts['gpu']} | try: pip install 'mpilayer[gpu]', and nvidia-smi"


def show(ranks):
    """Print everything, on rank 0."""
    from rich.console import Console
    from rich.table import Table

    ranks.agree(kernel_settings)
    facts, tried = environment(ranks), trials.results(ranks)
    if ranks.rank > 0:
        return
    table = Table(show_header=False, title="mpilayer on this machine")
    for name, value in facts.items():
        shown = ("no", "yes")[value] if isinstance(value, bool) else str(value or "not installed")
        table.add_row(name.replace("_", " "), shown)
    for name, variable in env.VARIABLES.items():
        table.add_row(name, f"{os.environ.get(name, 'not set')}   ({variable.meaning})")
    console = Console(highlight=False)
    console.print(table)
    table = Table(show_header=False, title="tried with this MPI")
    for name, found in tried.items():
        table.add_row(name, found)
    console.print(table)
    for hint in hints(facts):
        console.print(f"hint: {hint}")


def show_probe(ranks):
    """Measure what communication costs here and who should move messages; print it, on rank 0."""
    from rich.console import Console
    from rich.table import Table

    from mpilayer.exchange import automatic, probe
    from mpilayer.exchange.settings import Settings

    probe.kernels.dense(*probe.operands())  # compiled, or loaded, before ranks wait for each other
    found = probe.Probe(ranks, Settings())
    link = ranks.bcast(found.link(probe.SIZES[-1]))
    alone, compute, overlaps = found.overlap(automatic.typical(probe.SIZES[-1], link), link.chunk)
    if ranks.rank > 0:
        return
    table = Table("--progress", "computing, ms", "then waiting, ms", "in all, ms",
                  title=f"{1e3 * alone:.1f} ms of communication behind {1e3 * compute:.1f} ms of computing")
    for name, each in overlaps.items():
        table.add_row(name, *(f"{1e3 * seconds:.1f}" for seconds in (each.compute, each.exposed, each.total)))
    console = Console(highlight=False)
    console.print(f"a sum over {ranks.size} ranks takes {link} of float32: small layers fused up to"
                  f" {automatic.in_words(link.bucket)}, large ones split from {automatic.in_words(link.chunk)}")
    console.print(table)
    console.print(f"--progress auto takes {automatic.best(overlaps)} here")


def parser():
    """All options."""
    p = Parser(prog="python -m mpilayer.info", description=__doc__, add_help=False)
    p.add_argument("--help", "-h", action="store_true", help="show this and stop")
    p.add_argument("--probe", action="store_true", help="measure latency, bandwidth, and each way of progress")
    return p


def checked(argv, ranks):
    """The options. Raises UserError."""
    options = parser().parse_args(argv)
    if options.probe and ranks.size == 1:
        raise UserError("--probe: one rank has nobody to talk to | try: mpiexec -n 2 python -m mpilayer.info --probe")
    return options


def main():
    """Entry point."""
    with job() as ranks:
        options = ranks.agree(lambda: checked(sys.argv[1:], ranks))
        if options.help:
            if ranks.rank == 0:
                parser().print_help()
            return
        show(ranks)
        if options.probe:
            show_probe(ranks)


if __name__ == "__main__":
    main()
