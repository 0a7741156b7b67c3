"""What a net makes of samples that it was not trained on."""

from typing import NamedTuple

import numpy as np

from kernels.gpu import fetch
from mpilayer.data import share
from mpilayer.training.batch import Batch


class Outcome(NamedTuple):
    """Of all ranks: mean loss, answers that are right, all answers (of tokens one each), and `confusion` (classes,
    classes) int64, how many answers of a class (row) were which class (column), if that was asked for.
    """

    loss: float
    right: int
    answers: int
    confusion: np.ndarray | None = None

    @property
    def accuracy(self):
        """Share of answers that are right."""
        return self.right / self.answers

    @classmethod
    def of(cls, net, part, ranks, chunk, put=lambda *arrays: arrays, confused=False):
        """Of all samples of a part of the data, shared out among the ranks, so many at a time; `put` brings them to
        where the net computes. All ranks call this together.
        """
        total, mine = len(part), share(len(part), ranks.rank, ranks.size)
        loss, right, given, confusion = 0.0, 0, 0, np.zeros((net.classes, net.classes) if confused else 0)
        for start in range(mine.start, mine.stop, max(1, chunk)):
            x, y = put(*part.read(np.arange(start, min(start + max(1, chunk), mine.stop))))
            for _ in net.forward(Batch(x, y, total, training=False)):
                pass
            answers = net.logits.argmax(-1)
            loss, right, given = loss + net.losses[-1].loss, right + (answers == y).sum(), given + y.size
            if confused:
                np.add.at(confusion, (fetch(y), fetch(answers)), 1)
        loss, right, given = ranks.total(np.array([float(loss), float(right), given]))
        return cls(loss, int(right), int(given), ranks.total(confusion).astype(np.int64) if confused else None)
