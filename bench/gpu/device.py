"""The GPU, PyTorch on it, what both can do at most, and who measures unit after unit there."""

import functools
import gc

import numpy as np

from bench.gpu.record import told
from bench.timing import Cold, Events, alternate
from kernels import check_target, gpu
from mpilayer.base.errors import UserError
from mpilayer.gpu import device

SQUARE = 8192  # rows and columns of the matrices that show how fast products can be
DTYPES = {"float32": "float32", "tf32": "float32", "bfloat16": "bfloat16"}  # of activations, in NumPy and PyTorch


def facts():
    """{what: value} of the GPU. Raises UserError if there is none that can be used."""
    try:
        gpu.cupy().zeros(1, np.float32).get()
        return device.facts()
    except Exception as error:  # of CuPy, CUDA and imports
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"there is no GPU that CuPy can use ({reason}) | try: nvidia-smi, pip install 'mpilayer[gpu]'"
                        ) from None


@functools.cache
def torch():
    """PyTorch on this GPU; None where it is not installed, or broken, or cannot use it: then there is no peer."""
    try:
        import torch
    except (ImportError, OSError):  # this one for a library that it wants
        return None
    if not torch.cuda.is_available():
        return None
    torch.set_grad_enabled(False)
    return torch


def peer_facts():
    """{what: value} of PyTorch."""
    library = torch()
    if not library:
        return {"torch": None}
    return {"torch": library.__version__, "cudnn": library.backends.cudnn.version()}


def peers(make, passes):
    """{pass: {way: PyTorch's function}}, which `make` returns; none where there is no PyTorch, or it fails."""
    try:
        if torch():
            return make()
    except Exception as error:  # any, such as no memory left: our figures are wanted all the same
        print(f"no peer: {told(error)[:300]}", flush=True)
    return dict.fromkeys(passes, {})


def use(precision):
    """Ours and PyTorch's products in that precision from here on; the place of our arrays."""
    gpu.set_precision("tf32" if precision == "tf32" else "float32")
    if torch():
        from bench import peer_torch

        peer_torch.set_precision(precision)
    return check_target.on_gpu(gpu.bfloat16() if precision == "bfloat16" else np.float32)


def copy_bandwidth():
    """GB/s of the GPU's memory, read and written, by a copy far larger than its cache."""
    cupy = gpu.cupy()
    source = cupy.empty(8 * cupy.cuda.Device().attributes["L2CacheSize"], np.uint8)
    target = cupy.empty_like(source)

    def copy():
        target.data.copy_from_device_async(source.data, source.nbytes, cupy.cuda.get_current_stream())

    seconds = alternate({"copy": copy}, rounds=9, seconds=0.1, clock=Events())["copy"]
    return 2 * source.nbytes / seconds / 1e9


def product_speed(precision):
    """TFLOP/s of PyTorch's product of two square matrices of normal numbers; None without it."""
    if not torch():
        return None
    use(precision)
    a, b = (torch().randn(SQUARE, SQUARE, device="cuda", dtype=getattr(torch(), DTYPES[precision])) for _ in range(2))
    seconds = alternate({"product": lambda: a @ b}, rounds=9, seconds=0.1, clock=Events())["product"]
    return 2 * SQUARE**3 / seconds / 1e12


def ceilings(options, found):
    """Measure what this GPU does at most, into the facts of a part."""
    found |= peer_facts() | {"copy_gb_per_s": copy_bandwidth()}
    found["product_tflops"] = {precision: product_speed(precision) for precision in options.precisions}
    free()


def free():
    """Give back the memory of what is measured no more."""
    gc.collect()
    gpu.cupy().get_default_memory_pool().free_all_blocks()
    if torch():
        torch().cuda.empty_cache()


def is_broken():
    """Whether nothing can be done on the GPU any more by this process."""
    try:
        gpu.cupy().cuda.Device().synchronize()
        (gpu.cupy().zeros(1, np.float32) + 1).get()
    except Exception:  # CuPy's and CUDA's
        return True
    return False


def each(units, rows_of):
    """Yield (name, rows, or the exception instead) of one unit after the other."""
    for name, unit in units.items():
        try:
            rows = rows_of(unit)
        except Exception as error:  # any: the other units go on
            rows = error.with_traceback(None)
        if not isinstance(rows, Exception) or not is_broken():
            free()
        yield name, rows


@functools.cache
def cold():
    """One clock for all, for its memory is large."""
    return Cold()


def timed(functions, options, *, seconds, clock=None):
    """(seconds of ours, {layout: seconds of the peer}); None for what the peer cannot do."""
    able = {name: function for name, function in functions.items() if name == "ours" or _runs(function)}
    times = alternate(able, rounds=options.rounds, seconds=seconds, clock=clock or cold())
    return times.pop("ours"), {name: times.get(name) for name in functions if name != "ours"}


def _runs(function):
    try:
        function()
    except (RuntimeError, NotImplementedError):
        return False
    return True
