"""Checkpoints of a loop of the user's own."""

import hashlib
from pathlib import Path

import numpy as np

from kernels.gpu import fetch
from mpilayer.base.errors import AgreedError
from mpilayer.base.state import State, restore_values
from mpilayer.mpi import agreement
from mpilayer.storage.checkpoints import Checkpoints
from mpilayer.storage.weights_file import read_weights

KEEP = 2
AT = "channel/"


def _is_schedule(what):
    return hasattr(what, "channel")


def _state(what, arrays):
    """Everything, for a start as this rank's own."""
    if _is_schedule(what):
        state = what.state() | State(own={"statistics": getattr(what.net, "state", np.zeros(0))})
    else:
        state = State.of(what, AT) | State(own={"weights": what.parameters.weights})
    return State(own={**state.equal, **state.own, **{f"arrays/{name}": array for name, array in dict(arrays).items()}},
                 values=state.values)


def divided(state, equal):
    """The State with the arrays of these names as equal ones."""
    own = {name: array for name, array in state.own.items() if name not in equal}
    return State({name: state.own[name] for name in equal if name in state.own}, own, state.values)


def equal_on_all(ranks, arrays):
    """Names of the arrays that are equal on all ranks."""
    if not arrays or not all(agreement.equal_on_all(ranks, agreement.digest(repr(list(arrays))))):
        return []
    equal = agreement.equal_on_all(ranks, *(_digest(fetch(array)) for array in arrays.values()))
    return [name for name, same in zip(arrays, equal, strict=True) if same]


def _digest(array):
    """64 bits of an array's numbers."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(array), digest_size=8).digest(), "little")


def _checkpoints(what, folder, keep):
    channel = what.channel if _is_schedule(what) else what
    layers = (what.net if _is_schedule(what) else what.parameters).layers
    about = {"kind": type(what).__name__, "parameters": ", ".join(f"{layer.name} {layer.w.size}" for layer in layers)}
    checkpoints = Checkpoints(channel.ranks, Path(folder), keep, about, channel.say, lambda text: None)
    checkpoints.channel = channel
    return checkpoints


def save(folder, what, arrays=(), *, keep=KEEP, **values):
    """Write a checkpoint of a loop between two steps: of a GradientQueue, with its Parameters and the sums that are in
    flight, or of a Schedule, with its net and optimizer. All ranks call this together; it returns when it is written.

    folder   that all hosts share; the newest `keep` checkpoints stay there
    arrays   {name: NumPy array} of what else the loop keeps, such as momentum; each may differ from rank to rank
    values   numbers and texts, such as step=7, of each rank its own

    Raises AgreedError if it cannot be written, or if a schedule does not say what it keeps.
    """
    with _checkpoints(what, folder, keep) as checkpoints:
        (what.rest if _is_schedule(what) else what.complete)()
        state = checkpoints.ranks.agree(lambda: _state(what, arrays))
        write(checkpoints, state, user=values)


def write(checkpoints, state, **values):
    """Write a State and this rank's values, and wait for it; arrays that turn out to be equal on all ranks are shared
    out. All ranks call this together. Raises AgreedError if it cannot be written.
    """
    checkpoints.save(divided(state, equal_on_all(checkpoints.ranks, state.own)), **values)
    checkpoints.finish()
    if failure := checkpoints.ranks.bcast(checkpoints.failure):
        raise AgreedError(failure)


def load(folder, what=None, arrays=()):
    """Go on from the newest checkpoint in a folder that is whole: what save() was given comes back in place. Its
    values, as a dictionary; None if there is no checkpoint. All ranks call this together, before the first step.

    what, arrays   made as for save(): a GradientQueue with the same parameters and delay, or a Schedule

    With the folder alone, of a run with --out: its Weights, whose `arrays` are {"conv1/weight": array, ...}.

    Raises AgreedError for a checkpoint of something else, UserError for weights that cannot be read.
    """
    if what is None:
        return read_weights(folder)
    with _checkpoints(what, folder, KEEP) as checkpoints:
        loaded = checkpoints.newest()
        if loaded is None:
            return None
        found = loaded.of_this_rank()
        restore = what.restore if _is_schedule(what) else lambda values: restore_values(what, values, AT)
        restore(found["state"])
        loaded.put(divided(_state(what, arrays), [name for name, *_ in loaded.manifest["equal"]]))
        what.restored()
    return found["user"]
