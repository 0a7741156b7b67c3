"""What tests of the rooms on the emulated GPU share."""

import numpy as np

from kernels import check, check_target, gpu
from kernels.check_target import Bound
from tests.emulator.fixtures import forget

MODES = [{"order": 0}, {"order": 1, "early": True}, {"order": 5, "streams": "late"}]
BOUND, BFLOAT16 = Bound().gpu, Bound().bfloat16


def precisions():
    """The GPU, with activations of either type."""
    return [check_target.on_gpu(np.float32), check_target.on_gpu(gpu.bfloat16())]


def agree(passes, bound=BOUND, least=0):
    """Every (pass, result, reference) up to `bound`, or a rounding if the result is bfloat16, of the largest value.

    Or of `least` if that is more: sums may all but cancel.
    """
    for part, got, want in passes:
        off, largest = np.abs(gpu.fetch(got) - want.astype(np.float64)).max(), max(least, np.abs(want).max())
        assert off <= (BFLOAT16 if got.dtype.name == "bfloat16" else bound) * largest, f"{part}: {off:.1e} of {largest}"


def every_way(device, passes_of, cases):
    """All passes of the cases in all precisions, in all modes."""
    for mode, target in zip([*MODES, *MODES[:1]], [*precisions(), *precisions()], strict=True):
        with device.emulator.mode(**mode):
            for case in cases:
                some = check.normals()
                agree(passes_of(case, lambda shape, some=some, target=target: target.rounded(some(shape)), target))


def lacks(monkeypatch, room, statement, number=0):
    """Take the statement, where it stands for the number-th time, out of a room's source."""
    source = gpu.source

    def changed(name, constants=()):
        text = source(name, constants)
        if name != room:
            return text
        *before, after = text.split(statement, number + 1)
        assert len(before) == number + 1
        return statement.join(before) + after

    monkeypatch.setattr(gpu, "source", changed)
    forget()


def is_caught(device, work):
    """Whether `work` fails in some mode."""
    for mode in MODES:
        try:
            with device.emulator.mode(**mode, seconds=2):  # of a launch: it may never end, too
                work()
        except (AssertionError, RuntimeError):
            return True
    return False
