"""What a net computes on in a step."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Batch:
    """This rank's samples x (n,H,W,C), y (n,), and what of the effective batch a net needs to know.

    size: samples in the effective batch, over all ranks   first: where this rank's begin in it   seed: of the step
    total: sums a float64 array over the ranks, for statistics of the whole batch; None for those of this rank's part
    """

    x: np.ndarray
    y: np.ndarray
    size: int
    first: int = 0
    seed: int = 0
    training: bool = True
    total: Callable | None = None
