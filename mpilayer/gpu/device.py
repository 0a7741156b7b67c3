"""Which GPU a rank computes on, what it is like, and what NumPy does not know of its arrays."""

import contextlib
import re
from pathlib import Path

import numpy as np

from kernels import gpu
from mpilayer.base.errors import UserError
from mpilayer.compression import COMPRESSORS

PRECISIONS = ("float32", "tf32", "bfloat16")
ONLY_THERE = ("tf32", "nccl")
TRY = " | try: nvidia-smi, or --device cpu"
# what cannot be done for a net on a GPU: {(option, value): why}
REFUSED = {
    ("progress", "kernel"): "no kernel runs on this core | try: --progress auto, where it moves messages all the time",
    **{("wire", name): kind.refused_on_gpu for name, kind in COMPRESSORS.items() if kind.refused_on_gpu},
}


def add_options(p):
    """The options of where nets compute."""
    p.add_argument("--device", choices=("cpu", "gpu"), default="cpu",
                   help="what computes; the ranks of a machine share its GPUs, one each where there are enough")
    p.add_argument("--precision", choices=PRECISIONS, default="float32", help="of all that flows from layer to layer"
                   " (bfloat16), or on a GPU of products (tf32); weights, gradients and sums are float32")


def check(options, schedules):
    """Raise UserError for what cannot be done on a GPU, or only there."""
    if options.device == "cpu":
        for name, value in (("precision", options.precision), ("reduction", options.reduction)):
            if value in ONLY_THERE:
                raise UserError(f"--{name} {value} goes with --device gpu")
        return
    halves = schedules[options.schedule].queue_options.get("order") == "split"
    if options.reduction == "nccl" and (options.wire != "float32" or halves):
        raise UserError("--reduction nccl goes with --wire float32, and not with --schedule split: NCCL sums float32,"
                        " each message at once")
    for (name, value), why in REFUSED.items():
        if getattr(options, name) == value:
            raise UserError(f"--{name} {value} does not go with --device gpu: {why}")
    if options.slow or options.jitter:
        raise UserError("--slow and --jitter do not go with --device gpu: it is this core's time that they stretch")
    reason = schedules[options.schedule].host_only
    if reason:
        able = ", ".join(name for name, other in schedules.items() if not other.host_only)
        raise UserError(f"--schedule {options.schedule} does not go with --device gpu: {reason}"
                        f" | try: one of {able}")


def _cupy():
    """CuPy. Raises UserError."""
    try:
        return gpu.cupy()
    except ImportError as error:
        raise UserError(f"--device gpu needs CuPy, which cannot be imported ({' '.join(str(error).split())})"
                        " | try: pip install 'mpilayer[gpu]', or --device cpu") from None


def use(ranks, options):
    """Let this rank compute on a GPU, those of a node on its GPUs in turn. Raises UserError."""
    cupy = _cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        cupy.cuda.Device(ranks.node.rank % count).use()
        (cupy.zeros(1, np.float32) + 1).get()  # whatever is missing is missed now
        if options.precision == "bfloat16":
            (cupy.zeros(1, gpu.bfloat16()) + 1).get()  # CuPy has it with NumPy 2.1.2 or later
    except Exception as error:  # CuPy's, CUDA's and the compiler's have nothing else in common
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"--device gpu: there is no GPU that CuPy can use ({reason}){TRY}") from None
    if options.reduction == "nccl":
        nccl()
        if ranks.node.size > count:
            raise UserError("--reduction nccl: NCCL wants a GPU for each rank,"
                            f" here {count} for {ranks.node.size} ranks | try: --reduction native")


def nccl():
    """CuPy's module for NCCL. Raises UserError."""
    try:
        from cupy.cuda import nccl
    except ImportError as error:
        nccl, reason = None, f" ({error})"
    else:
        reason = ""
    if not getattr(nccl, "available", False):
        raise UserError(f"--reduction nccl: CuPy does not find NCCL{reason} | try: pip install nvidia-nccl-cu13")
    return nccl


@contextlib.contextmanager
def room(what):
    """A block that takes a GPU's memory. Raises UserError if that is not enough."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # CuPy's, which is of no kind that is known without CuPy
            raise
        raise UserError(f"the GPU has not enough memory for {what} ({error})"
                        " | try: a smaller --batch or --delay, --precision bfloat16, or fewer ranks on a GPU") from None


def said(options, how):
    """In words, for the first lines of a run: where a net computes, and how gradients come to MPI from there."""
    if options.device == "cpu":
        return ""
    count = gpu.cupy().cuda.runtime.getDeviceCount()
    return f"\non {facts()['gpu']}, {count} on this machine, in {options.precision}; {how}"


def facts():
    """{what: value} of the GPU that this process computes on."""
    cupy = gpu.cupy()
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    return {"gpu": properties["name"].decode(), "nvidia_driver": driver(), "cupy": cupy.__version__}


def driver():
    """Version of NVIDIA's driver, or an empty string."""
    try:
        found = re.search(r"Module\s+(?:for \w+\s+)?(\d[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return ""
    return found[1] if found else ""
