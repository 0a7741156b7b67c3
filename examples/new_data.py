"""A data source of your own: small images of discs and rings, in noise.

    python -m mpilayer.train --data examples/new_data.py:rings --noise 0.5 --epochs 3
"""

import numpy as np

from mpilayer import Data, Option, Source, in_memory
from mpilayer.base.cli import amount

SIZE, TRAIN, TEST = 12, 2048, 512


def open_rings(*, seed, ranks, noise):
    """Data of images (12,12,1): class 0 are discs, class 1 rings; all ranks draw the same ones from the seed."""
    rng, count = np.random.default_rng(seed), TRAIN + TEST
    labels = np.arange(count) % 2
    centre, radius = rng.uniform(-0.3, 0.3, (2, count, 1, 1)), rng.uniform(0.5, 0.8, (count, 1, 1))
    down, across = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")
    distance = np.hypot(down - centre[0], across - centre[1])
    inside = (distance < radius) & (distance > labels[:, None, None] * radius / 2)
    images = np.where(inside, 1, -1) + noise * rng.standard_normal(inside.shape)
    images = images[..., None].astype(np.float32)
    return Data("rings", (SIZE, SIZE, 1), 2, in_memory(images[:TRAIN], labels[:TRAIN]),
                in_memory(images[TRAIN:], labels[TRAIN:]))


rings = Source(open_rings, "images", (Option("noise", "standard deviation of a pixel's noise", amount, 0.5),))
