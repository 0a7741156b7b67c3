"""Checkpoints of a distributed PyTorch model, with the sums that are in flight."""

from pathlib import Path

import numpy as np
import torch

from mpilayer.base.errors import UserError
from mpilayer.base.state import State, restore_values
from mpilayer.storage.checkpoints import Checkpoints
from mpilayer.storage.library import KEEP, divided, write

MODEL, OPTIMIZER, SUMS, RANDOM = "model/", "optimizer/", "sums/", "random"
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16}  # NumPy has no bfloat16


def _array(tensor):
    """A tensor's memory as a NumPy array; a copy if it is not contiguous."""
    tensor = tensor.detach()
    return tensor.contiguous().view(BITS.get(tensor.dtype, tensor.dtype)).numpy()


def _tensor(array, dtype):
    return torch.from_numpy(array).view(dtype)


def _mode(model):
    if not hasattr(model, "distributed"):
        raise UserError("the model is not distributed | expected one that went through mpilayer.torch.distribute")
    return model.distributed


def _inner(optimizer):
    """The user's optimizer."""
    return getattr(optimizer, "inner", optimizer)


def _of_optimizer(optimizer):
    """({path: tensor}, the rest of its state_dict, in which numbers take the tensors' place)."""
    found, tensors, rest = _inner(optimizer).state_dict(), {}, {}
    for number, state in found["state"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{OPTIMIZER}{number}/{key}"] = value
            else:
                rest.setdefault(str(number), {})[key] = value
    return tensors, {"numbers": rest, "param_groups": found["param_groups"]}


def _checkpoints(ranks, model, folder, keep):
    about = {"model": ", ".join(f"{name} {tuple(t.shape)} {t.dtype}" for name, t in model.named_parameters())}
    return Checkpoints(ranks, Path(folder), keep, about, warn=lambda text: None)


def save(folder, model, optimizer, *, keep=KEEP, **values):
    """Write a checkpoint between two steps: the model, its optimizer, PyTorch's random numbers, and sums in flight,
    which are not applied. All ranks call this together; it returns when it is written.

    model, optimizer   as distribute() has returned them        values   numbers and texts, such as step=7
    folder             that all hosts share; the newest `keep` checkpoints stay there

    Raises UserError for a model that is not distributed, AgreedError if it cannot be written.
    """
    mode, (tensors, rest) = _mode(model), _of_optimizer(optimizer)
    with torch.no_grad():
        own = {f"{MODEL}{name}": _array(tensor) for name, tensor in _entries(model)}
    own |= {path: _array(tensor) for path, tensor in tensors.items()}
    state = State(own={**own, RANDOM: torch.get_rng_state().numpy()})
    mode.complete()
    keeper, notes = mode.kept()
    state = state | State.of(keeper, SUMS) if keeper else state
    dtypes = {path: str(tensor.dtype) for path, tensor in tensors.items()}
    with _checkpoints(mode.ranks, model, folder, keep) as checkpoints:
        checkpoints.channel = mode.queue
        write(checkpoints, state, user=values, optimizer=rest, dtypes=dtypes, mode=notes)


def _entries(model):
    """(name, tensor) of parameters and buffers, each once; without the hooks of state_dict, which would drain."""
    return [*model.named_parameters(), *model.named_buffers()]


def load(folder, model, optimizer):
    """Go on from the newest checkpoint in a folder that is whole. Its values, as a dictionary; None if there is no
    checkpoint. All ranks call this together, after distribute() and before the first step.

    Raises UserError for a model that is not distributed, AgreedError for a checkpoint of another model.
    """
    mode = _mode(model)
    with _checkpoints(mode.ranks, model, folder, KEEP) as checkpoints:
        loaded = checkpoints.newest()
        if loaded is None:
            return None
        found = loaded.of_this_rank()
        own = {f"{MODEL}{name}": np.array(_array(tensor)) for name, tensor in _entries(model)}
        arrays = {path: np.empty(shape, dtype) for path, dtype, shape in loaded.rows() if path.startswith(OPTIMIZER)}
        state = State(own=own | arrays | {RANDOM: torch.get_rng_state().numpy()})
        if keeper := mode.reopen(found["mode"]):
            restore_values(keeper, found["state"], SUMS)
            state |= State.of(keeper, SUMS)
        loaded.put(divided(state, [name for name, *_ in loaded.manifest["equal"]]))
    torch.set_rng_state(torch.from_numpy(state.own[RANDOM]))
    _take(model, optimizer, own, arrays, found)
    mode.restored(found["mode"])
    return found["user"]


@torch.no_grad()
def _take(model, optimizer, own, arrays, found):
    for name, tensor in _entries(model):
        tensor.copy_(_tensor(own[f"{MODEL}{name}"], tensor.dtype))
    state = {int(number): dict(numbers) for number, numbers in found["optimizer"]["numbers"].items()}
    for path, array in arrays.items():
        number, key = path.removeprefix(OPTIMIZER).split("/", 1)
        dtype = getattr(torch, found["dtypes"][path].removeprefix("torch."))
        state.setdefault(int(number), {})[key] = _tensor(array, dtype)
    _inner(optimizer).load_state_dict({"state": state, "param_groups": found["optimizer"]["param_groups"]})
