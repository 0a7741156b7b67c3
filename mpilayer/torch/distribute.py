"""A PyTorch model and its optimizer, data-parallel over MPI."""

import functools

import torch

from mpilayer.base.errors import UserError
from mpilayer.mpi.ranks import Ranks
from mpilayer.torch.modes import AfterBackward, BeforeForward

SCHEDULES = {  # name: (order of messages, arguments of Sums)
    "oneshot": ("backward", {"at_once": False, "bucket": None, "chunk": None}),
    "layerwise": ("backward", {}),
    "planned": ("need", {}),
    "split": ("split", {}),
    "delayed": ("backward", {}),
}
OVERLAPS = None, "forward"


@functools.cache
def _ranks():
    """Those of COMM_WORLD, once."""
    return Ranks()


def distribute(model, optimizer, schedule="planned", *, delay=None, overlap=None, clip=None, ranks=None, **settings):
    """(model, optimizer) for a training loop as it is: each rank has samples of its own, the gradients are averaged.

    The model is the same object, with hooks, and rank 0's parameters and buffers. In `model.no_sync()` gradients add up
    and are not sent; `model.drain()` ends what is in flight, `model.undistribute()` takes the hooks away; all ranks
    call the latter two together.

    schedule   "oneshot": one sum after backward; "layerwise": one for each module as soon as it has its gradients;
               "planned": the same, and what the next forward reads first overtakes the rest; "split": reduce-scatter
               in backward, all-gather in forward; "delayed": as layerwise, `delay` steps late
    delay      of schedule "delayed", in steps; default 1
    overlap    None: after backward `grad` is what step() must apply. "forward": each module is updated just before the
               next forward reads it, and sums travel meanwhile; for optimizers that treat each parameter without regard
               to others. The optimizer that is returned takes the place of the given
    clip       with overlap="forward": largest norm of a step's gradient, as clip_grad_norm_ has it
    ranks      mpilayer.Ranks; default: those of MPI.COMM_WORLD
    settings   of mpilayer.GradientQueue, such as wire="bfloat16"

    Raises UserError for a model or an optimizer that does not fit, AgreedError, on all ranks, if they differ.
    """
    ranks = ranks or _ranks()
    order, how = _checked(model, optimizer, schedule, delay, overlap, clip)
    settings.setdefault("progress", _progress(ranks))
    delay = (1 if delay is None else delay) if schedule == "delayed" else 0
    if overlap == "forward":
        mode = optimizer = BeforeForward(ranks, model, optimizer, delay, order, clip, **how | settings)
    else:
        mode = AfterBackward(ranks, model, delay, order, **how | settings)
    _attach(model, mode)
    return model, optimizer


def _progress(ranks):
    """"auto", to be tried, where ranks exchange something, and a thread can get a core."""
    threads = ranks.MPI.Query_thread() >= ranks.MPI.THREAD_SERIALIZED and not ranks.crowded
    return "auto" if ranks.size > 1 and all(ranks.gather(threads)) else "poll"


def _attach(model, mode):
    """Let the model have what the loop may call."""
    def undistribute():
        mode.drain()
        mode.sums.close()
        del model.no_sync, model.drain, model.undistribute, model.distributed

    model.no_sync, model.drain, model.undistribute = mode.sums.no_sync, mode.drain, undistribute
    model.distributed = mode


def _checked(model, optimizer, schedule, delay, overlap, clip):
    """(order, arguments of Sums) of the schedule. Raises UserError."""
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"model | expected a torch.nn.Module, got a {type(model).__name__}")
    if schedule not in SCHEDULES:
        raise UserError(f"schedule {schedule!r} | expected one of {', '.join(SCHEDULES)}")
    if overlap not in OVERLAPS:
        raise UserError(f"overlap {overlap!r} | expected None or \"forward\"")
    if delay is not None and (schedule != "delayed" or not isinstance(delay, int) or delay < 0):
        raise UserError(f"delay {delay!r} | expected a whole number of steps, with schedule=\"delayed\"")
    if clip is not None and overlap is None:
        raise UserError("clip goes with overlap=\"forward\" | try: torch.nn.utils.clip_grad_norm_ after backward")
    if hasattr(model, "undistribute"):
        raise UserError("the model is distributed already | try: model.undistribute() before")
    own = {parameter: name for name, parameter in model.named_parameters()}
    strange = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"] if p not in own]
    if strange:
        raise UserError(f"the optimizer has a parameter of shape {strange[0]} that is not the model's | expected"
                        " model.parameters() | try: making the optimizer after the model was moved or changed")
    return SCHEDULES[schedule]
