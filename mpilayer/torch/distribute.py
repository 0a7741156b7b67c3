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
    """(model, optimizer) for the loop as it is: each rank computes on samples of its own, the gradients are averaged.

        model, optimizer = mpilayer.torch.distribute(model, optimizer)
        for x, y in loader:                      # this rank's
            optimizer.zero_grad()
            loss(model(x), y).backward()         # sums travel while backward computes
            optimizer.step()

    The model is the same object, with hooks, and with rank 0's parameters and buffers. `model.no_sync()` is a context
    in which gradients add up and are not sent, `model.drain()` ends what is in flight, `model.undistribute()` takes the
    hooks away; all ranks call the latter two together.

    schedule   "oneshot": one sum after backward; "layerwise": a sum for each module as soon as its gradients are there;
               "planned": the same, and what the next forward reads first overtakes the rest; "split": reduce-scatter
               in backward, all-gather in forward; "delayed": as layerwise, `delay` steps late
    delay      of schedule "delayed", in steps; default 1
    overlap    None: after backward `grad` is what step() must apply, so any optimizer, clipping and learning-rate
               scheduler works as it is. "forward": each module's sum is waited for, and its update made, just before
               the next forward reads it, so that sums travel during the next forward, too. For optimizers that treat
               each parameter without regard to others; the optimizer that is returned takes the place of the given
    clip       with overlap="forward": largest norm of a step's gradient, as clip_grad_norm_ has it
    ranks      mpilayer.Ranks; default: those of MPI.COMM_WORLD
    settings   of mpilayer.GradientQueue, such as wire="bfloat16"

    Raises UserError for a model or an optimizer that does not fit, AgreedError, on all ranks, if they differ.
    """
    ranks = ranks or _ranks()
    order, how = _checked(model, optimizer, schedule, delay, overlap, clip)
    settings.setdefault("progress", "thread" if ranks.neighbours < ranks.cores else "poll")
    delay = (1 if delay is None else delay) if schedule == "delayed" else 0
    if overlap == "forward":
        mode = optimizer = BeforeForward(ranks, model, optimizer, delay, order, clip, **how | settings)
    else:
        mode = AfterBackward(ranks, model, delay, order, **how | settings)

    def undistribute():
        mode.drain()
        mode.sums.close()
        del model.no_sync, model.drain, model.undistribute, model.distributed

    model.no_sync, model.drain, model.undistribute = mode.sums.no_sync, mode.drain, undistribute
    model.distributed = mode
    return model, optimizer


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
