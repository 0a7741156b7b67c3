"""Whether MPI may be given a GPU's memory."""

import numpy as np

from kernels import gpu
from mpilayer.base import env
from mpilayer.gpu.staging import disguised
from mpilayer.mpi.collectives import Calls, Native
from mpilayer.mpi.engine import Engine

TRIED = 16, 2**18  # numbers that MPI is to sum there


def cuda_aware(ranks):
    """Whether MPI says so on every rank, and sums made in a GPU's memory are right."""
    calls = Calls(ranks)
    says = calls.cuda_aware and env.get("MPILAYER_CUDA_AWARE") in ("1", "yes", "on", "true")
    aware = ranks.all(says) and all(ranks.all(_right(ranks, calls, size)) for size in TRIED)
    calls.free()
    return aware


def _right(ranks, calls, size):
    """Whether a sum of so many numbers on the GPU is right."""
    numbers = gpu.cupy().full(size, ranks.rank + 1, np.float32)
    engine = Engine([[Native(calls).operations(disguised(numbers), 0)]], 1, calls.test)
    gpu.cupy().cuda.get_current_stream().synchronize()
    engine.mark(0, 0, ready=True)
    ranks.until(lambda: engine.advance() or engine.quiet, "a sum in the GPU's memory")
    return bool((numbers == ranks.size * (ranks.size + 1) / 2).all())
