"""How the emulated device behaves: `with cupy.emulator.mode(streams="late"): ...`.

The environment chooses the defaults, so that other processes can be told too: CUDA_CPU_COPIES is early or late,
CUDA_CPU_STREAMS eager or late, CUDA_CPU_ORDER a number, CUDA_CPU_SECONDS how long a kernel may compute.
"""

import contextlib
import os
from dataclasses import dataclass


@dataclass
class Mode:
    """What a device may do either way, and programs must not depend on."""

    early: bool = False  # cp.async lands at once; else as late as a wait allows
    order: int = 0  # of threads and blocks: 0 forward, 1 reverse, else the seed of a shuffle
    streams: str = "eager"  # work runs at once; or "late", when something forces it to
    seconds: int = 120  # what a kernel computes for longer waits for something that cannot happen

    @classmethod
    def from_environment(cls):
        """What the environment says, where it says something."""
        copies = os.environ.get("CUDA_CPU_COPIES", "late")
        return cls(copies == "early", int(os.environ.get("CUDA_CPU_ORDER", "0")),
                   os.environ.get("CUDA_CPU_STREAMS", "eager"), int(os.environ.get("CUDA_CPU_SECONDS", "120")))


current = Mode.from_environment()


@contextlib.contextmanager
def mode(early=None, order=None, streams=None, seconds=None):
    """Behave so inside; what is not given stays."""
    if streams not in (None, "eager", "late"):
        raise ValueError(f"streams are eager or late, not {streams!r}")
    before = dict(vars(current))
    given = {"early": early, "order": order, "streams": streams, "seconds": seconds}
    vars(current).update({name: value for name, value in given.items() if value is not None})
    try:
        yield current
    finally:
        vars(current).update(before)
