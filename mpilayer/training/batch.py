"""What a net computes on in a step."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Batch:
    """This rank's part of the samples of a training step, and what a net needs to know of the rest.

    x          images (n,H,W,C) float32, or tokens (n,T) int64
    y          labels (n,) int64, or the next tokens (n,T) int64
    size       samples in the effective batch, over all ranks; losses and gradients are divided by it
    first      how many of those come before this rank's; dropout depends on it
    seed       of the step, an int, for dropout
    training   False: no dropout, no auxiliary classifiers, running statistics in batch normalization
    total      sums a float64 array over the ranks, for batch normalization over all of them; None: over this rank's
    """

    x: np.ndarray
    y: np.ndarray
    size: int
    first: int = 0
    seed: int = 0
    training: bool = True
    total: Callable | None = None
