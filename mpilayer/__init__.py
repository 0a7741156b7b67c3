"""Data-parallel training over MPI with communication hidden behind computation.

    with mpilayer.Ranks() as ranks:
        parameters = mpilayer.Parameters({"w": w, "b": b})
        with mpilayer.GradientQueue(ranks, parameters, delay=1) as queue:
            ...

The names below are the library's; docs/tutorial.md shows them at work.
"""

import importlib
import itertools
import signal
import sys

__version__ = "0.1.0"

if any(word == "-m" and name.startswith("mpilayer.") for word, name in itertools.pairwise(sys.orig_argv)):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a program of ours: Ctrl-C while it is imported is no traceback

_HOME = {  # where each public name is defined; imported when it is first asked for, as MPI is not wanted by all
    "Ranks": "mpilayer.mpi.ranks",
    "Parameters": "mpilayer.exchange.parameters",
    "GradientQueue": "mpilayer.exchange.gradient_queue",
    "Settings": "mpilayer.exchange.settings",
    "Schedule": "mpilayer.schedules.base",
    "SCHEDULES": "mpilayer.schedules",
    "make_schedule": "mpilayer.schedules.make",
    "COMPRESSORS": "mpilayer.compression",
    "OPTIMIZERS": "mpilayer.training.optim",
    "MomentumSGD": "mpilayer.training.optim",
    "AdamW": "mpilayer.training.optim",
    "Muon": "mpilayer.training.optim",
    "Batch": "mpilayer.training.batch",
    "Option": "mpilayer.base.cli",
    "UserError": "mpilayer.base.errors",
    "HangError": "mpilayer.base.errors",
    "save": "mpilayer.storage.library",
    "load": "mpilayer.storage.library",
    "open_data": "mpilayer.data",
    "Data": "mpilayer.data",
    "Source": "mpilayer.data",
    "in_memory": "mpilayer.data",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'mpilayer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *__all__]
