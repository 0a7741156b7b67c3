"""Runs the GPU's kernels on the CPU: a stand-in for `cupy` in front of the real one, and what compiles the kernels."""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]


def environment(*, copies=None, order=None, streams=None):
    """What a process needs in its environment to find the stand-in, then this checkout, and to behave as told."""
    told = {"CUDA_CPU_COPIES": copies, "CUDA_CPU_ORDER": order, "CUDA_CPU_STREAMS": streams}
    return {"PYTHONPATH": f"{HERE}{os.pathsep}{TOP}"} | {
        name: str(value) for name, value in told.items() if value is not None}


def install():
    """Make `import cupy` mean the stand-in in this process, and return it."""
    if str(HERE) in sys.path:
        sys.path.remove(str(HERE))
    sys.path.insert(0, str(HERE))
    there = sys.modules.get("cupy")
    if there is not None and not str(there.__file__).startswith(str(HERE)):
        for name in [name for name in sys.modules if name.split(".")[0] == "cupy"]:
            del sys.modules[name]
    import cupy
    return cupy
